"""Find the size of the smallest images that a model accepts."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import TooSmallError

LARGEST_MINIMUM = 1024
"""Largest image side, in pixels, for the search: the search stops if larger images are still too small."""


def smallest_side(model: nn.Module, channels: int, *, above: int = 0, **mode: Any) -> int | None:
    """Return the side of the smallest square images that the model accepts, or None if the search finds no such side.

    The model is traced for several sizes, but computes nothing. The side grows from `above`, in steps that double,
    until the model accepts the images. A binary search between the last two sides then finds the smallest side.

    Args:
      model: a Linen module.
      channels: number of channels of the images.
      above: a side in pixels that is known to be too small. The search is shortest if `above` is near the result.
      **mode: keyword arguments with which the model is called, such as `train=True`.

    >>> from jaxcnn.layers import MaxPool
    >>> smallest_side(MaxPool(5), channels=1)
    5
    """
    too_small, step = above, 1
    while not _takes(model, too_small + step, channels, mode):
        too_small, step = too_small + step, 2 * step
        if too_small > LARGEST_MINIMUM:
            return None
    large_enough = too_small + step
    while large_enough - too_small > 1:
        side = (too_small + large_enough) // 2
        if _takes(model, side, channels, mode):
            large_enough = side
        else:
            too_small = side
    return large_enough


def too_small(name: str, model: nn.Module, image_shape: Sequence[int], **mode: Any) -> TooSmallError:
    """Return an error for images that are too small for a model.

    The message states the smallest side that the model accepts.

    Args:
      name: name of the model in the message.
      model: the model, which raised `TooSmallError` for these images.
      image_shape: shape `(H, W, C)` of the images.
      **mode: keyword arguments with which the model is called, such as `train=True`.
    """
    height, width, channels = image_shape
    side = smallest_side(model, channels, above=min(height, width), **mode)
    remedy = "Use larger images." if side is None else f"Use at least {side}x{side}."
    return TooSmallError(f"image too small for {name}: {height}x{width}. {remedy}")


def _takes(model: nn.Module, side: int, channels: int, mode: dict[str, Any]) -> bool:
    images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        jax.eval_shape(lambda keys, x: model.init(keys, x, **mode), {"params": key, "dropout": key}, images)
    except TooSmallError:
        return False
    return True
