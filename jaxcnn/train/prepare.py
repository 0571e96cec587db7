"""What the training step does to a batch on the devices before the model sees it: augment, then mix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.train.mixing import Mix, MixedLabels, mix_batch

Labels = jax.Array | MixedLabels
# (key, images [N, H, W, C], labels [N], axis_name) -> (images, labels)
Prepare = Callable[[jax.Array, jax.Array, jax.Array, str | None], tuple[jax.Array, Labels]]


def make_prepare(
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None, mix: Mix | None = None
) -> Prepare | None:
    """Return the preparation of a training batch, or None if there is nothing to do.

    Every example has keys of its own, derived from the step's key and the example's index in the whole batch, so that
    the result does not depend on the number of devices.

    Args:
      augment: `(key, image [H, W, C]) -> [H, W, C]`, applied to each image.
      mix: `(key, image, partner) -> (image, fraction)`, applied to pairs of augmented images; see `mixing`.
    """
    if augment is None and mix is None:
        return None

    def prepare(
        key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, Labels]:
        augment_key, mix_key, _ = jax.random.split(key, 3)  # the third is for dropout, in the step
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        places = device * len(images) + jnp.arange(len(images))
        if augment is not None:
            images = jax.vmap(augment)(_keys(augment_key, places), images)
        if mix is None:
            return images, labels
        return mix_batch(mix, _keys(mix_key, places), images, labels, axis_name)

    return prepare


def _keys(key: jax.Array, places: jax.Array) -> Any:
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
