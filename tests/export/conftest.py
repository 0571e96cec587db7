"""Images to compare predictions on."""

import pytest

from jaxcnn.data import open_dataset


@pytest.fixture(scope="session")
def images():
    """Return 100 test images of Fashion-MNIST."""
    return open_dataset("fashion_mnist_mini").read("test")[0][:100]
