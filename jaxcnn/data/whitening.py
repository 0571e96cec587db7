"""Compute a convolution kernel that whitens small image patches."""

import numpy as np

from jaxcnn.array_types import Float, Num
from jaxcnn.errors import UsageError

EPSILON = 5e-4
"""Constant added to the variance of each principal component, to limit the gain if the variance is near zero."""


def whitening_kernel(
    images: Num[np.ndarray, "n h w c"], size: int, features: int, epsilon: float = EPSILON
) -> Float[np.ndarray, "size size c features"]:
    """Return a convolution kernel that whitens image patches.

    The first half of the outputs is uncorrelated on patches of `images`, with a variance of about 1 each. The kernels
    of the first half are eigenvectors of the covariance of the patches, divided by the square roots of the eigenvalues.
    The eigenvectors are in the order of decreasing eigenvalues. The second half of the kernels is the negative of the
    first half, so that an activation function after the convolution keeps both signs. Patch means are not subtracted,
    so pass normalized images.

    References:
      Page, *How to Train Your ResNet 8: Bag of Tricks*, 2019.
      Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, section 3.1: the negative kernels and `EPSILON`.

    Args:
      images: normalized images, float `[N, H, W, C]`.
      size: height and width of the patches, in pixels.
      features: number of output channels, an even number of at most `2 * size^2 * C`.
      epsilon: constant added to the eigenvalues.

    Returns:
      The kernel, float32 `[size, size, C, features]`.

    Raises:
      UsageError: if `features` is odd or too large, or the images are smaller than a patch.

    >>> whitening_kernel(np.random.default_rng(0).normal(size=(8, 9, 9, 3)), 2, 24).shape
    (2, 2, 3, 24)
    """
    _, height, width, channels = images.shape
    values = size * size * channels
    if features % 2 or not 2 <= features <= 2 * values:
        raise UsageError(
            f"invalid number of features of a whitening kernel of {size}x{size}x{channels}: {features}. Use an even "
            f"number from 2 to {2 * values}."
        )
    if size > min(height, width):
        raise UsageError(
            f"images of {height}x{width} pixels are smaller than the whitening patches of {size}x{size}. "
            "Use smaller patches."
        )
    covariance, vectors = np.linalg.eigh(_second_moments(images, size))
    largest = np.argsort(covariance)[::-1][: features // 2]
    chosen = vectors[:, largest] / np.sqrt(covariance[largest] + epsilon)
    # The sign of an eigenvector is arbitrary. Make the component of largest magnitude positive, for reproducibility.
    chosen *= np.sign(chosen[np.abs(chosen).argmax(0), range(features // 2)])
    both = np.concatenate([chosen, -chosen], axis=1)
    return both.reshape(size, size, channels, features).astype(np.float32)


def _second_moments(images: np.ndarray, size: int) -> np.ndarray:
    """Return the mean of `patch patch^T` over all patches, `[size^2 C, size^2 C]`, in float64."""
    images = images.astype(np.float32)
    height, width = (side - size + 1 for side in images.shape[1:3])
    shifted = [images[:, top : top + height, left : left + width] for top in range(size) for left in range(size)]
    patches = np.concatenate(shifted, axis=-1).reshape(-1, size * size * images.shape[-1])
    # Sum in parts, to limit the rounding errors of float32.
    parts = np.array_split(patches, max(1, len(patches) // 65_536))
    return sum(((part.T @ part).astype(np.float64) for part in parts), np.zeros(())) / len(patches)
