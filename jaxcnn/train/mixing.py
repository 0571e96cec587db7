"""Mixing of training examples by pairs: mixup and cutmix, as pure functions inside the compiled step.

Example i of a batch of N is mixed with example N - 1 - i of the whole batch, over all devices, with a random key
made from its place in the batch. What is mixed with what, and how, is thus the same for any number of devices.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# (key, image [H, W, C], partner [H, W, C]) -> (mixed image, share of the image in it), both float32
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


class MixedLabels(NamedTuple):
    """Labels of mixed images: `share` of each image `[N]` shows `labels` `[N]`, the rest `others` `[N]`."""

    labels: jax.Array
    others: jax.Array
    share: jax.Array


def mixup(key: jax.Array, image: jax.Array, partner: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """`lambda * image + (1 - lambda) * partner` with lambda from Beta(alpha, alpha).

    Zhang, Cisse, Dauphin and Lopez-Paz, *mixup: Beyond Empirical Risk Minimization*, 2018, equation 1.
    """
    share = jax.random.beta(key, alpha, alpha)
    return share * image + (1.0 - share) * partner, share


def cutmix(key: jax.Array, image: jax.Array, partner: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """The image with a box of the partner in it, at the same place.

    Yun et al., *CutMix: Regularization Strategy to Train Strong Classifiers*, 2019, equations 1 and 2: the box is
    `sqrt(1 - lambda)` as high and wide as the image, lambda from Beta(alpha, alpha), its centre anywhere; what
    sticks out is cut off. The share returned is that of the pixels which are the image's own.
    """
    height, width, _ = image.shape
    size_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(size_key, alpha, alpha))

    def inside(key: jax.Array, length: int) -> jax.Array:
        """Which of `length` rows (or columns) the box covers."""
        centre = jax.random.randint(key, (), 0, length)
        size = jnp.floor(side * length).astype(jnp.int32)
        offset = jnp.arange(length) - (centre - size // 2)
        return (offset >= 0) & (offset < size)

    box = inside(row_key, height)[:, None] & inside(column_key, width)
    return jnp.where(box[..., None], partner, image), 1.0 - jnp.mean(box, dtype=jnp.float32)


def make_mix(mixup_alpha: float, cutmix_alpha: float) -> Mix | None:
    """Mixup, cutmix, or, if both have an alpha above 0, one of them for each example with equal chance."""
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
    mix: Mix, keys: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None
) -> tuple[jax.Array, MixedLabels]:
    """A batch `[N, H, W, C]` mixed with itself in reverse order, `keys` `[N]` one for each example.

    Under a mapped axis, device d of D exchanges its share of the batch with device D - 1 - d.
    """

    def reverse(x: jax.Array) -> jax.Array:
        if axis_name is not None:
            devices = jax.lax.axis_size(axis_name)
            x = jax.lax.ppermute(x, axis_name, [(device, devices - 1 - device) for device in range(devices)])
        return jnp.flip(x, axis=0)

    mixed, share = jax.vmap(mix)(keys, images, reverse(images))
    return mixed, MixedLabels(labels, reverse(labels), share)


def mixed_loss(loss: Loss, logits: jax.Array, labels: jax.Array | MixedLabels) -> jax.Array:
    """`share * loss(logits, labels) + (1 - share) * loss(logits, others)`, `[N]`; plain labels have no others."""
    if not isinstance(labels, MixedLabels):
        return loss(logits, labels)
    return labels.share * loss(logits, labels.labels) + (1.0 - labels.share) * loss(logits, labels.others)


def main_labels(labels: jax.Array | MixedLabels) -> jax.Array:
    """The label with the greater share of each image, which counts as the right answer in training `[N]`."""
    if not isinstance(labels, MixedLabels):
        return labels
    return jnp.where(labels.share >= 0.5, labels.labels, labels.others)
