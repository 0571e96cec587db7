"""Augmentation and normalisation: pure functions of an image, run on the device inside the compiled step.

An augmentation takes a random key and one image, `(key, [H, W, C]) -> [H, W, C]`, of any dtype. The training step
maps it over the batch with a key for each example, made from the example's place in the whole batch, so that
what happens to an image does not depend on how many devices share the work.
"""

import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError, unknown_name

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors the image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def shift(key: jax.Array, image: jax.Array, pixels: int = 2) -> jax.Array:
    """Moves the image by up to `pixels` in each direction; what comes in at the edges is 0 (black)."""
    height, width, channels = image.shape
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), (height, width, channels))


AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {"flip": flip, "shift": shift}


def compose(specs: Sequence[str]) -> Augmentation:
    """The named augmentations one after another, each with a key of its own; none of them is the identity.

    A name may be followed by a number, the augmentation's third argument: "shift:1" moves by up to 1 pixel.

    Raises:
      UsageError: an unknown name (the nearest one is named), or a number that cannot be.
    """
    steps = [_parse(spec) for spec in specs]

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for index, step in enumerate(steps):
            image = step(jax.random.fold_in(key, index), image)
        return image

    return augment


def _parse(spec: str) -> Augmentation:
    name, colon, number = spec.partition(":")
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    function = AUGMENTATIONS[name]
    if not colon:
        return function
    if len(inspect.signature(function).parameters) < 3:
        raise UsageError(f"augmentation '{name}' takes no number, got '{spec}'")
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"augmentation '{spec}' needs a whole number of at least 1 behind the colon")
    return lambda key, image: function(key, image, int(number))


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 images `[N, H, W, C]` as float32 with mean 0 and deviation 1: `(x / 255 - mean) / std` by channel."""
    # (x / 255 - mean) / std as one multiplication and one addition a pixel.
    factor = 1.0 / (255.0 * jnp.array(std, jnp.float32))
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return images.astype(jnp.float32) * factor - offset
