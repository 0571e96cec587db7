"""The whitening transformation of small patches of images, as the kernel of a convolution."""

import numpy as np

from jaxcnn.array_types import Float, Num
from jaxcnn.errors import UsageError

EPSILON = 5e-4
"""Added to the variance of each component, so that those that are hardly there are not amplified without bound."""


def whitening_kernel(
    images: Num[np.ndarray, "n h w c"], size: int, features: int, epsilon: float = EPSILON
) -> Float[np.ndarray, "size size c features"]:
    """Return a kernel whose outputs are uncorrelated and have about unit variance on patches of these images.

    Each of the first half of the kernels is an eigenvector of the covariance of the patches, largest eigenvalue first,
    divided by the square root of its eigenvalue. The other half are their negatives, so that an activation function
    behind the convolution loses neither sign. The means of the patches are not subtracted: pass normalized images.

    Page, *How to Train Your ResNet 8: Bag of Tricks*, 2019; with the negatives and this epsilon, Jordan, *94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, section 3.1.

    Args:
      images: normalized images, float `[N, H, W, C]`.
      size: height and width of the patches, in pixels.
      features: number of kernels: even, at most `2 * size^2 * C`.
      epsilon: added to the eigenvalues.

    Returns:
      float32 `[size, size, C, features]`.

    Raises:
      UsageError: if `features` is odd or too large, or the images are smaller than a patch.

    >>> whitening_kernel(np.random.default_rng(0).normal(size=(8, 9, 9, 3)), 2, 24).shape
    (2, 2, 3, 24)
    """
    _, height, width, channels = images.shape
    values = size * size * channels
    if features % 2 or not 2 <= features <= 2 * values:
        raise UsageError(
            f"a whitening kernel of {size}x{size}x{channels} has an even number of features, from 2 to {2 * values}, "
            f"got {features}"
        )
    if size > min(height, width):
        raise UsageError(f"images of {height}x{width} pixels have no patches of {size}x{size}. Use smaller patches.")
    covariance, vectors = np.linalg.eigh(_second_moments(images, size))
    largest = np.argsort(covariance)[::-1][: features // 2]
    chosen = vectors[:, largest] / np.sqrt(covariance[largest] + epsilon)
    # Eigenvectors have no sign of their own. This one does not depend on the library that computes them.
    chosen *= np.sign(chosen[np.abs(chosen).argmax(0), range(features // 2)])
    both = np.concatenate([chosen, -chosen], axis=1)
    return both.reshape(size, size, channels, features).astype(np.float32)


def _second_moments(images: np.ndarray, size: int) -> np.ndarray:
    """Return the mean of `patch patch^T` over all patches, `[size^2 C, size^2 C]`, in float64."""
    images = images.astype(np.float32)
    height, width = (side - size + 1 for side in images.shape[1:3])
    shifted = [images[:, top : top + height, left : left + width] for top in range(size) for left in range(size)]
    patches = np.concatenate(shifted, axis=-1).reshape(-1, size * size * images.shape[-1])
    # In parts, so that float32 sums stay short.
    parts = np.array_split(patches, max(1, len(patches) // 65_536))
    return sum(((part.T @ part).astype(np.float64) for part in parts), np.zeros(())) / len(patches)
