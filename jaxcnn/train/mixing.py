"""Mix pairs of training examples with mixup or cutmix: pure functions inside the compiled step.

Example i of a batch of N examples is mixed with example N - 1 - i of the batch. The batch includes the examples of all
devices. The random key of an example depends on its index in the batch. The result is therefore the same for any number
of devices.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Key, KeyArray, Num, UInt32
from jaxcnn.train.examples import reversed_examples
from jaxcnn.train.losses import Loss

# (key, image [H, W, C], partner [H, W, C]) -> (mixed image, weight of `image` in the mixed image), both float32
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class MixedLabels(NamedTuple):
    """Labels of mixed images. Each mixed image has two labels.

    Attributes:
      labels: labels of the first images, int `[N]` or float `[N, classes]`.
      others: labels of the second images, with the shape of `labels`.
      fraction: weight of the first image in each mixed image, float `[N]`, from 0 to 1.
    """

    labels: jax.Array
    others: jax.Array
    fraction: jax.Array


def mixup(
    key: KeyArray, image: Num[Array, "h w c"], partner: Num[Array, "h w c"], alpha: float
) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
    """Blend two images: return `lambda * image + (1 - lambda) * partner` and lambda, drawn from Beta(alpha, alpha).

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, *mixup: Beyond Empirical Risk Minimization*, 2018, equation 1.
    """
    fraction = jax.random.beta(key, alpha, alpha)
    return fraction * image + (1.0 - fraction) * partner, fraction


def cutmix(
    key: KeyArray, image: Num[Array, "h w c"], partner: Num[Array, "h w c"], alpha: float
) -> tuple[Num[Array, "h w c"], Float[Array, ""]]:
    """Copy a random box of `partner` into `image`, at the same position.

    Source: Yun et al., *CutMix: Regularization Strategy to Train Strong Classifiers*, 2019, equations 1 and 2. The
    sides of the box are `sqrt(1 - lambda)` times the sides of the image, with lambda drawn from Beta(alpha, alpha). The
    center of the box is uniform over the image, and the box is clipped to the image.

    Returns:
      The mixed image, and the fraction of its pixels that are from `image`.
    """
    height, width, _ = image.shape
    size_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(size_key, alpha, alpha))

    def inside(key: jax.Array, length: int) -> jax.Array:
        """Return a boolean mask `[length]` of the rows, or of the columns, that the box covers."""
        center = jax.random.randint(key, (), 0, length)
        size = jnp.floor(side * length).astype(jnp.int32)
        offset = jnp.arange(length) - (center - size // 2)
        return (offset >= 0) & (offset < size)

    box = inside(row_key, height)[:, None] & inside(column_key, width)[None, :]
    return jnp.where(box[..., None], partner, image), 1.0 - jnp.mean(box, dtype=jnp.float32)


def make_mix(mixup_alpha: float, cutmix_alpha: float) -> Mix | None:
    """Return a function that mixes two images, or None if both alphas are 0.

    If only one alpha is above 0, the function is mixup or cutmix with this alpha. If both alphas are above 0, each
    example is mixed with mixup or cutmix at random.

    >>> mix = make_mix(mixup_alpha=0.2, cutmix_alpha=0.0)
    >>> image, fraction = mix(jax.random.key(0), jnp.ones((28, 28, 1)), jnp.zeros((28, 28, 1)))
    >>> image.shape, bool(jnp.allclose(image, fraction))
    ((28, 28, 1), True)
    """
    if not mixup_alpha and not cutmix_alpha:
        return None

    def mix(key: jax.Array, image: jax.Array, partner: jax.Array) -> tuple[jax.Array, jax.Array]:
        image, partner = image.astype(jnp.float32), partner.astype(jnp.float32)
        if not cutmix_alpha:
            return mixup(key, image, partner, mixup_alpha)
        if not mixup_alpha:
            return cutmix(key, image, partner, cutmix_alpha)
        which, key = jax.random.split(key)
        cut = jax.random.bernoulli(which)
        blended, pasted = mixup(key, image, partner, mixup_alpha), cutmix(key, image, partner, cutmix_alpha)
        return jnp.where(cut, pasted[0], blended[0]), jnp.where(cut, pasted[1], blended[1])

    return mix


def mix_batch(
    mix: Mix,
    keys: Key[Array, " n"] | UInt32[Array, "n 2"],
    images: Num[InputArray, "n h w c"],
    labels: Num[InputArray, "n ..."],
) -> tuple[Num[Array, "n h w c"], MixedLabels]:
    """Mix each image of a batch `[N, H, W, C]` with the image at the same position of the reversed batch.

    Args:
      mix: function that mixes two images; see `make_mix`.
      keys: one random key for each example, `[N]`.
      images: images, `[N, H, W, C]`.
      labels: labels of the images, `[N]` or `[N, classes]`.
    """
    mixed, fraction = jax.vmap(mix)(keys, images, reversed_examples(images))
    return mixed, MixedLabels(labels, reversed_examples(labels), fraction)


def mixed_loss(loss: Loss, logits: jax.Array, labels: jax.Array | MixedLabels) -> jax.Array:
    """Return the loss of each example, `[N]`: for mixed labels, the weighted mean of the losses of its two labels."""
    if not isinstance(labels, MixedLabels):
        return loss(logits, labels)
    return labels.fraction * loss(logits, labels.labels) + (1.0 - labels.fraction) * loss(logits, labels.others)


def main_labels(labels: jax.Array | MixedLabels) -> jax.Array:
    """Return the label with the larger weight for each example. The training accuracy uses these labels."""
    if not isinstance(labels, MixedLabels):
        return labels
    fraction = labels.fraction.reshape(-1, *(1,) * (labels.labels.ndim - 1))
    return jnp.where(fraction >= 0.5, labels.labels, labels.others)
