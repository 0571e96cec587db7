"""A whitening kernel makes the values of a patch uncorrelated, with unit variance."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.whitening import whitening_kernel
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv


def smooth_images(count: int = 64, size: int = 12) -> np.ndarray:
    """Return images whose neighboring pixels and channels are correlated, as in photographs."""
    noise = np.random.default_rng(0).normal(size=(count, size + 2, size + 2, 3))
    smooth = sum(noise[:, y : y + size, x : x + size] for y in range(3) for x in range(3))
    return (smooth @ np.array([[1.0, 0.6, 0.2], [0.0, 1.0, 0.6], [0.0, 0.0, 1.0]])).astype(np.float32)


def responses(kernel: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return what the convolution makes of all patches, `[patches, features]`."""
    conv = Conv(kernel.shape[-1], kernel.shape[0], use_bias=False)
    outputs = conv.apply({"params": {"kernel": jnp.asarray(kernel)}}, images)
    return np.asarray(outputs, np.float64).reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_outputs_are_uncorrelated_and_have_unit_variance(size):
    images, half = smooth_images(), 3 * size**2
    kernel = whitening_kernel(images, size, 2 * half, epsilon=0.0)
    outputs = responses(kernel, images)
    np.testing.assert_allclose(outputs[:, :half].T @ outputs[:, :half] / len(outputs), np.eye(half), atol=2e-3)
    np.testing.assert_array_equal(kernel[..., half:], -kernel[..., :half])


def test_components_with_little_variance_are_not_amplified_without_bound():
    images = smooth_images()
    images[..., 2] = images[..., 1]  # half of the directions of two equal channels have no variance
    kernel = whitening_kernel(images, 2, 24)
    assert np.linalg.norm(kernel[..., :12].reshape(-1, 12), axis=0).max() == pytest.approx(5e-4**-0.5, rel=1e-2)


def test_fewer_features_are_those_of_largest_variance():
    images = smooth_images()
    whole, part = (whitening_kernel(images, 2, features, epsilon=0.0) for features in (24, 8))
    np.testing.assert_allclose(part[..., :4], whole[..., :4])
    # A kernel's length is one over the standard deviation along it.
    lengths = np.linalg.norm(whole[..., :12].reshape(-1, 12), axis=0)
    assert (np.diff(lengths) > 0).all()


@pytest.mark.parametrize("features", [0, 7, 26])
def test_an_impossible_number_of_features_is_refused(features):
    with pytest.raises(UsageError, match=f"2x2x3: {features}. Use an even number from 2 to 24"):
        whitening_kernel(smooth_images(2), 2, features)


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(UsageError, match="images of 3x3 pixels are smaller than the whitening patches of 4x4"):
        whitening_kernel(np.zeros((1, 3, 3, 1)), 4, 2)
