"""RandAugment and TrivialAugment: random operations of random strength, computed on the device.

Operations and their ranges follow torchvision's `RandAugment` and `TrivialAugmentWide`, with nearest-neighbor
interpolation and black fill.

Under `vmap`, each example selects its own operation, so JAX would compute every branch of a `switch` for every example.
An image therefore passes through three stages, and at most one of these stages changes the image:

1. an affine map of the coordinates
2. a blend with a degenerate image
3. a lookup table of 256 values for each channel

References:
  Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019.
  Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, KeyArray, Num

AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *AFFINE, *BLENDS, *TABLES)

BINS = 31
"""Number of equally spaced strengths, from 0 to the maximum."""

# ITU-R BT.601 weights of red, green and blue. PIL and torchvision use these weights to convert to grayscale.
LUMA = (0.299, 0.587, 0.114)


def randaugment(
    key: KeyArray, image: Num[Array, "h w c"], operations: int = 2, magnitude: int = 9
) -> Num[Array, "h w c"]:
    """Apply RandAugment: several random operations in sequence, all with the same strength.

    Args:
      key: random key.
      image: array `[H, W, C]`, with values from 0 to 255.
      operations: number of operations to apply.
      magnitude: strength from 0 to 30. The sign of each operation is random.
    """
    height, width, _ = image.shape
    limits = {"shear": 0.3, "translate_x": 150 / 331 * width, "translate_y": 150 / 331 * height, "rotate": 30.0}
    for index in range(operations):
        operation_key, sign_key = jax.random.split(jax.random.fold_in(key, index))
        image = operate(
            image,
            jax.random.randint(operation_key, (), 0, len(OPERATIONS)),
            jnp.minimum(magnitude, BINS - 1) / (BINS - 1),
            jax.random.bernoulli(sign_key),
            **limits,
            blend=0.9,
            bits=4,
        )
    return image


def trivialaugment(key: KeyArray, image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
    """Apply TrivialAugment (wide): one random operation of random strength and sign.

    Args:
      key: random key.
      image: array `[H, W, C]`, with values from 0 to 255.
    """
    operation_key, strength_key, sign_key = jax.random.split(key, 3)
    return operate(
        image,
        jax.random.randint(operation_key, (), 0, len(OPERATIONS)),
        jax.random.randint(strength_key, (), 0, BINS) / (BINS - 1),
        jax.random.bernoulli(sign_key),
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
    """Apply one operation to an image.

    Args:
      image: array `[H, W, C]`, with values from 0 to 255.
      operation: index into `OPERATIONS`.
      strength: strength from 0 to 1, as a fraction of the maximum values in the following arguments.
      negative: whether to invert the sign of the strength. Posterize, solarize, autocontrast and equalize ignore the
        sign.
      shear: maximum slope.
      translate_x: maximum horizontal translation, in pixels.
      translate_y: maximum vertical translation, in pixels.
      rotate: maximum angle, in degrees.
      blend: maximum difference of the blend factor from 1.
      bits: maximum number of bits that posterize removes.
    """
    signed = jnp.where(negative, -1.0, 1.0) * strength
    is_operation = {name: operation == index for index, name in enumerate(OPERATIONS)}

    def select(values: dict[str, jax.Array], default: jax.Array) -> jax.Array:
        return jnp.select([is_operation[name] for name in values], list(values.values()), default)

    matrices = _matrices(image.shape, signed * shear, signed * translate_x, signed * translate_y, signed * rotate)
    pixels = _resample(image, select(matrices, jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))

    exact = pixels.astype(jnp.float32)
    degenerate = select({name: DEGENERATE[name](exact) for name in BLENDS}, exact)
    blended = jnp.clip(degenerate + (1.0 + signed * blend) * (exact - degenerate), 0.0, 255.0)
    is_blend = (operation > len(AFFINE)) & (operation <= len(AFFINE + BLENDS))
    # The conversion to an integer dtype truncates, as in PIL and torchvision.
    pixels = jnp.where(is_blend, blended.astype(image.dtype), pixels)

    levels = jnp.clip(jnp.round(pixels.astype(jnp.float32)), 0, 255).astype(jnp.int32)
    tables = {
        "posterize": _posterize(levels, 8 - jnp.round(strength * bits).astype(jnp.int32)),
        "solarize": _solarize(levels, 255.0 * (1.0 - strength)),
        "autocontrast": _autocontrast(levels),
        "equalize": _equalize(levels),
    }
    table = select(tables, jnp.broadcast_to(jnp.arange(256)[:, None], (256, image.shape[-1])))
    looked_up = jnp.take_along_axis(table, levels.reshape(-1, image.shape[-1]), axis=0).reshape(image.shape)
    return jnp.where(operation > len(AFFINE + BLENDS), looked_up.astype(image.dtype), pixels)


def _matrices(
    shape: tuple[int, ...], shear: jax.Array, right: jax.Array, down: jax.Array, degrees: jax.Array
) -> dict[str, jax.Array]:
    """Return, for each affine operation, the matrix `[2, 3]` from output coordinates (x, y) to source coordinates."""
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
    """Apply an affine map with nearest-neighbor interpolation; pixels from outside the image become 0."""
    height, width, _ = image.shape
    x, y = jnp.arange(width)[None, :] + 0.5, jnp.arange(height)[:, None] + 0.5
    column = jnp.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(jnp.int32)
    row = jnp.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(jnp.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, jnp.zeros((), image.dtype))


def _grayscale(pixels: jax.Array) -> jax.Array:
    """Return the brightness `[H, W, 1]` of each pixel."""
    if pixels.shape[-1] == 3:
        # Use a sum: a TPU would compute a matrix product in bfloat16.
        return (pixels * jnp.array(LUMA)).sum(-1, keepdims=True)
    return pixels.mean(-1, keepdims=True)


def _smooth(pixels: jax.Array) -> jax.Array:
    """Apply PIL's SMOOTH filter: the mean of 3 x 3 pixels with weight 5 on the center. The border is unchanged."""
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
    "color": lambda pixels: jnp.broadcast_to(jnp.round(_grayscale(pixels)), pixels.shape),
    "contrast": lambda pixels: jnp.broadcast_to(jnp.round(_grayscale(pixels).mean()), pixels.shape),
    "sharpness": _smooth,
}
"""Function that computes the degenerate image of each blend operation: black, grayscale, mean gray, or smoothed."""


def _posterize(levels: jax.Array, bits: jax.Array) -> jax.Array:
    """Return a lookup table `[256, C]` that keeps the `bits` most significant bits of a pixel value."""
    kept = jnp.arange(256) & ~((1 << (8 - bits)) - 1)
    return jnp.broadcast_to(kept[:, None], (256, levels.shape[-1]))


def _solarize(levels: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """Return a lookup table `[256, C]` that inverts the pixel values at or above `threshold`."""
    level = jnp.arange(256)
    return jnp.broadcast_to(jnp.where(level < threshold, level, 255 - level)[:, None], (256, levels.shape[-1]))


def _autocontrast(levels: jax.Array) -> jax.Array:
    """Return a lookup table `[256, C]` that stretches the pixel values of each channel to the range 0 to 255."""
    low, high = levels.min((0, 1)), levels.max((0, 1))
    level = jnp.arange(256)[:, None]
    scaled = jnp.clip((level - low) * (255.0 / jnp.maximum(high - low, 1)), 0, 255).astype(jnp.int32)
    return jnp.where(high > low, scaled, level)


def _equalize(levels: jax.Array) -> jax.Array:
    """Return a lookup table `[256, C]` that equalizes the histogram of each channel by PIL's algorithm."""
    channels = levels.shape[-1]
    counts = jnp.zeros((256, channels), jnp.int32).at[levels, jnp.arange(channels)].add(1)
    level = jnp.arange(256)[:, None]
    last = jnp.take_along_axis(counts, levels.max((0, 1))[None, :], axis=0)[0]
    step = (counts.sum(0) - last) // 255
    before = jnp.cumsum(counts, axis=0) - counts
    equal = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, equal, level)
