"""RandAugment and TrivialAugment: random operations of random strength, on the device.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019; Müller and
Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021. Operations and their ranges are
those of torchvision's `RandAugment` and `TrivialAugmentWide`: nearest pixels, black where nothing comes in.

Under `vmap` every example takes an operation of its own, so that a branch would be computed for all of them anyway.
Instead each operation is one of three kinds, and the other two stages leave its image as it is: an affine map of the
coordinates, a blend with a degenerate image, a table of 256 values for each channel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *AFFINE, *BLENDS, *TABLES)

BINS = 31
"""Strengths are one of 31 equal steps from none to the most."""

# ITU-R BT.601, which PIL and torchvision turn colours into grey with.
LUMA = (0.299, 0.587, 0.114)


def randaugment(key: jax.Array, image: jax.Array, operations: int = 2, magnitude: int = 9) -> jax.Array:
    """RandAugment: `operations` random ones one after another, each of strength `magnitude` of 30, up or down."""
    height, width, _ = image.shape
    most = {"shear": 0.3, "translate_x": 150 / 331 * width, "translate_y": 150 / 331 * height, "rotate": 30.0}
    for index in range(operations):
        which, sign = jax.random.split(jax.random.fold_in(key, index))
        image = operate(
            image,
            jax.random.randint(which, (), 0, len(OPERATIONS)),
            jnp.minimum(magnitude, BINS - 1) / (BINS - 1),
            jax.random.bernoulli(sign),
            **most,
            blend=0.9,
            bits=4,
        )
    return image


def trivialaugment(key: jax.Array, image: jax.Array) -> jax.Array:
    """TrivialAugment (wide): one random operation of a random strength, up or down."""
    which, how_much, sign = jax.random.split(key, 3)
    return operate(
        image,
        jax.random.randint(which, (), 0, len(OPERATIONS)),
        jax.random.randint(how_much, (), 0, BINS) / (BINS - 1),
        jax.random.bernoulli(sign),
        shear=0.99,
        translate_x=32.0,
        translate_y=32.0,
        rotate=135.0,
        blend=0.99,
        bits=6,
    )


def operate(
    image: jax.Array,
    operation: jax.Array | int,
    strength: jax.Array | float,
    negative: jax.Array | bool = False,
    *,
    shear: float,
    translate_x: float,
    translate_y: float,
    rotate: float,
    blend: float,
    bits: int,
) -> jax.Array:
    """The operation of this place in `OPERATIONS`, applied to `[H, W, C]`.

    Args:
      strength: from 0 to 1, the share of what is most, which the other arguments say: slope of a shear, pixels of a
        translation, degrees of a rotation, difference of a blend's factor from 1, bits that posterize takes away.
      negative: whether to go the other way (not posterize, solarize, autocontrast and equalize).
    """
    signed = jnp.where(negative, -1.0, 1.0) * strength
    place = {name: operation == index for index, name in enumerate(OPERATIONS)}

    def chosen(values: dict[str, jax.Array], otherwise: jax.Array) -> jax.Array:
        return jnp.select([place[name] for name in values], list(values.values()), otherwise)

    matrices = _matrices(image.shape, signed * shear, signed * translate_x, signed * translate_y, signed * rotate)
    pixels = _resample(image, chosen(matrices, jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))

    exact = pixels.astype(jnp.float32)
    degenerate = chosen({name: DEGENERATE[name](exact) for name in BLENDS}, exact)
    blended = jnp.clip(degenerate + (1.0 + signed * blend) * (exact - degenerate), 0.0, 255.0)
    pixels = jnp.where((operation > len(AFFINE)) & (operation <= len(AFFINE + BLENDS)), _like(blended, image), pixels)

    levels = jnp.clip(jnp.round(pixels.astype(jnp.float32)), 0, 255).astype(jnp.int32)
    tables = {
        "posterize": _posterize(levels, 8 - jnp.round(strength * bits).astype(jnp.int32)),
        "solarize": _solarize(levels, 255.0 * (1.0 - strength)),
        "autocontrast": _autocontrast(levels),
        "equalize": _equalize(levels),
    }
    table = chosen(tables, jnp.broadcast_to(jnp.arange(256)[:, None], (256, image.shape[-1])))
    looked_up = jnp.take_along_axis(table, levels.reshape(-1, image.shape[-1]), axis=0).reshape(image.shape)
    return jnp.where(operation > len(AFFINE + BLENDS), looked_up.astype(image.dtype), pixels)


def _like(pixels: jax.Array, image: jax.Array) -> jax.Array:
    """In the dtype of `image`; whole numbers are cut off, as PIL and torchvision do after a blend."""
    return pixels.astype(image.dtype)


def _matrices(
    shape: tuple[int, ...], shear: jax.Array, right: jax.Array, down: jax.Array, degrees: jax.Array
) -> dict[str, jax.Array]:
    """Of each affine operation the matrix `[2, 3]` from a pixel's place (x, y) to that of its source."""
    height, width, _ = shape
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    x, y = width / 2, height / 2
    return {
        "shear_x": jnp.array([[1.0, shear, 0.0], [0.0, 1.0, 0.0]]),
        "shear_y": jnp.array([[1.0, 0.0, 0.0], [shear, 1.0, 0.0]]),
        "translate_x": jnp.array([[1.0, 0.0, -jnp.trunc(right)], [0.0, 1.0, 0.0]]),
        "translate_y": jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, -jnp.trunc(down)]]),
        "rotate": jnp.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]),
    }


def _resample(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Each pixel from the source pixel into which the matrix maps its centre; 0 from outside the image."""
    height, width, _ = image.shape
    x, y = jnp.arange(width)[None, :] + 0.5, jnp.arange(height)[:, None] + 0.5
    column = jnp.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(jnp.int32)
    row = jnp.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(jnp.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, jnp.zeros((), image.dtype))


def _grey(pixels: jax.Array) -> jax.Array:
    """Brightness `[H, W, 1]` of each pixel."""
    if pixels.shape[-1] == 3:
        # As a sum, not a matrix product, which a TPU would do in bfloat16.
        return (pixels * jnp.array(LUMA)).sum(-1, keepdims=True)
    return pixels.mean(-1, keepdims=True)


def _blurred(pixels: jax.Array) -> jax.Array:
    """PIL's SMOOTH: the mean of 3 x 3 pixels, the middle one counted five times; the border stays."""
    height, width, _ = pixels.shape
    if min(height, width) < 3:
        return pixels
    total = 4.0 * pixels[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total += pixels[y : height - 2 + y, x : width - 2 + x]
    return pixels.at[1:-1, 1:-1].set(jnp.round(total / 13.0))


DEGENERATE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "brightness": jnp.zeros_like,
    "color": lambda pixels: jnp.broadcast_to(jnp.round(_grey(pixels)), pixels.shape),
    "contrast": lambda pixels: jnp.broadcast_to(jnp.round(_grey(pixels).mean()), pixels.shape),
    "sharpness": _blurred,
}
"""What a blend goes away from, or towards: black, grey, the mean grey, the blurred image."""


def _posterize(levels: jax.Array, bits: jax.Array) -> jax.Array:
    """A table `[256, C]` that keeps the highest `bits` bits of a level."""
    kept = jnp.arange(256) & ~((1 << (8 - bits)) - 1)
    return jnp.broadcast_to(kept[:, None], (256, levels.shape[-1]))


def _solarize(levels: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """A table `[256, C]` that inverts levels from `threshold` on."""
    level = jnp.arange(256)
    return jnp.broadcast_to(jnp.where(level < threshold, level, 255 - level)[:, None], (256, levels.shape[-1]))


def _autocontrast(levels: jax.Array) -> jax.Array:
    """A table `[256, C]` that stretches each channel's levels to the whole range."""
    low, high = levels.min((0, 1)), levels.max((0, 1))
    level = jnp.arange(256)[:, None]
    scaled = jnp.clip((level - low) * (255.0 / jnp.maximum(high - low, 1)), 0, 255).astype(jnp.int32)
    return jnp.where(high > low, scaled, level)


def _equalize(levels: jax.Array) -> jax.Array:
    """A table `[256, C]` that makes all of a channel's levels about equally frequent, by PIL's rule."""
    channels = levels.shape[-1]
    counts = jnp.zeros((256, channels), jnp.int32).at[levels, jnp.arange(channels)].add(1)
    level = jnp.arange(256)[:, None]
    last = jnp.take_along_axis(counts, levels.max((0, 1))[None, :], axis=0)[0]
    step = (counts.sum(0) - last) // 255
    before = jnp.cumsum(counts, axis=0) - counts
    equal = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, equal, level)
