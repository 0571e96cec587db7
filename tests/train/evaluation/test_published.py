"""Networks with the weights of a file."""

import numpy as np
import pytest

from jaxcnn import weights
from jaxcnn.errors import UsageError
from jaxcnn.train import load_run, trained_from_weights


@pytest.fixture
def saved(lenet_run, tmp_path):
    """Return a file of the weights of a run, which does not record how images are normalized."""
    trained, path = load_run(lenet_run.workdir), tmp_path / "lenet5.safetensors"
    weights.save(path, "lenet5", trained.variables, image_shape=(28, 28, 1))
    return path


def test_the_network_predicts_as_the_run_does(lenet_run, saved):
    run = load_run(lenet_run.workdir)
    around = run.preprocessing
    network = trained_from_weights("lenet5", saved, class_names=around.class_names, mean=around.mean, std=around.std)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    np.testing.assert_allclose(network.predict(images), run.predict(images), rtol=1e-6)


def test_an_unknown_normalization_and_a_wrong_number_of_names_are_refused(saved):
    with pytest.raises(UsageError, match=r"does not record how images are normalized\. Give --mean and --std"):
        trained_from_weights("lenet5", saved)
    with pytest.raises(UsageError, match="has 10 classes, but 2 class names are given"):
        trained_from_weights("lenet5", saved, class_names=("a", "b"), mean=(0.5,), std=(0.5,))


def test_recorded_preprocessing_is_used(lenet_run, saved):
    trained = load_run(lenet_run.workdir)
    recorded = weights.Preprocessing((0.25,), (0.5,), (28, 28), resize=32)
    weights.save(saved, "lenet5", trained.variables, image_shape=(28, 28, 1), preprocessing=recorded)
    around = trained_from_weights("lenet5", saved).preprocessing
    assert (around.mean, around.std, around.image_shape, around.resize) == ((0.25,), (0.5,), (28, 28, 1), 32)
    assert around.class_names == tuple("0123456789")
