"""Augmentation and normalisation: pure functions of an image, run on the device inside the compiled step.

An augmentation takes a random key and one image, `(key, [H, W, C]) -> [H, W, C]`, and gives back the same shape and
dtype. Pixel values are those of uint8, 0 to 255, in whatever dtype they are held. The training step maps it over the
batch with a key for each example, made from the example's place in the whole batch, so that what happens to an image
does not depend on how many devices share the work.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxcnn.data._random_policies import randaugment, trivialaugment
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


def crop(key: jax.Array, image: jax.Array, padding: int = 4) -> jax.Array:
    """A random window, as large as the image, of the image with `padding` rows and columns of 0 around it.

    Source: Lee et al., "Deeply-Supervised Nets", 2014; He et al., "Deep Residual Learning for Image Recognition", 2015,
    section 4.2 (padding 4 on CIFAR-10). It is `shift` under the name, and with the number, of these papers.
    """
    return shift(key, image, padding)


def cutout(key: jax.Array, image: jax.Array, size: int = 16) -> jax.Array:
    """Sets a square of `size` x `size` pixels to 0; its centre is any pixel, and what lies outside the image is lost.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
    section 3.1 (size 16 on CIFAR-10, 8 on CIFAR-100).
    """
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre - size // 2
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    covered = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(covered[..., None], jnp.zeros((), image.dtype), image)


def resized_crop(
    key: jax.Array,
    image: jax.Array,
    smallest: float = 0.08,
    largest: float = 1.0,
    narrowest: float = 3 / 4,
    widest: float = 4 / 3,
) -> jax.Array:
    """A random part of the image, of random area and shape, at the size of the whole: torchvision's RandomResizedCrop.

    Its share of the area is uniform in [`smallest`, `largest`], the logarithm of width / height uniform between those
    of `narrowest` and `widest`, its place uniform. The first of ten draws that fits into the image is taken; if none
    fits, the largest part in the middle whose shape is allowed. It is resized bilinearly, with antialiasing.

    Source: Szegedy et al., "Going Deeper with Convolutions", 2014, section 6; torchvision's constants.
    """
    height, width, _ = image.shape
    top, left, rows, columns = crop_box(key, height, width, (smallest, largest), (narrowest, widest))
    vertical = _resize_weights(top, rows, height)
    horizontal = _resize_weights(left, columns, width)
    # In full precision: a TPU's default of bfloat16 has fewer bits than a pixel needs after the sum.
    resized = jnp.einsum(
        "yi,ijc,xj->yxc", vertical, image.astype(jnp.float32), horizontal, precision=jax.lax.Precision.HIGHEST
    )
    if jnp.issubdtype(image.dtype, jnp.integer):
        resized = jnp.clip(jnp.round(resized), 0, 255)
    return resized.astype(image.dtype)


def crop_box(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(top, left, rows, columns)`, int32, of `resized_crop`'s part of an image of `height` x `width`."""
    area_key, shape_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (10,), minval=scale[0], maxval=scale[1])
    shape = jnp.exp(jax.random.uniform(shape_key, (10,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    columns = jnp.round(jnp.sqrt(area * shape)).astype(jnp.int32)
    rows = jnp.round(jnp.sqrt(area / shape)).astype(jnp.int32)
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = jnp.argmax(fits)
    # The middle part: the whole of the side that limits, and of the other what the nearest allowed shape gives.
    nearest = min(max(width / height, ratio[0]), ratio[1])
    middle = (min(height, round(width / nearest)), min(width, round(height * nearest)))
    rows = jnp.where(fits.any(), rows[first], middle[0])
    columns = jnp.where(fits.any(), columns[first], middle[1])
    top = jax.random.randint(top_key, (), 0, height - rows + 1)
    left = jax.random.randint(left_key, (), 0, width - columns + 1)
    top = jnp.where(fits.any(), top, (height - rows) // 2)
    left = jnp.where(fits.any(), left, (width - columns) // 2)
    return top, left, rows, columns


def _resize_weights(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """`[size, size]`: how much of each source pixel is in each pixel of `length` pixels resized to `size`.

    The triangle filter of bilinear interpolation, widened where the part shrinks (antialiasing). Nothing outside
    the part is looked at, as if it had been cut out first.
    """
    step = length / size
    centre = start + (jnp.arange(size) + 0.5) * step - 0.5
    source = jnp.arange(size)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(source[None, :] - centre[:, None]) / jnp.maximum(step, 1.0))
    weights = jnp.where((source >= start) & (source < start + length), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "flip": flip,
    "shift": shift,
    "crop": crop,
    "cutout": cutout,
    "resized_crop": resized_crop,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}


def compose(specs: Sequence[str | Augmentation]) -> Augmentation:
    """The augmentations one after another, each with a key of its own; none of them is the identity.

    Each is a function `(key, [H, W, C]) -> [H, W, C]` or the name of one. A name may be followed by numbers, the
    function's arguments after the image: "shift:1" moves by up to 1 pixel, "randaugment:2,9" applies two operations
    of magnitude 9.

    Raises:
      UsageError: an unknown name (the nearest one is named), or a number that cannot be.
    """
    steps = [parse(spec) if isinstance(spec, str) else spec for spec in specs]

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for index, step in enumerate(steps):
            image = step(jax.random.fold_in(key, index), image)
        return image

    return augment


def parse(spec: str) -> Augmentation:
    """The augmentation of a name with or without numbers, with its arguments bound.

    Raises:
      UsageError: an unknown name (the nearest one is named), or a number that cannot be.
    """
    name, colon, numbers = spec.partition(":")
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    function = AUGMENTATIONS[name]
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if not colon:
        return function
    if not parameters:
        raise UsageError(f"augmentation '{name}' takes no number, got '{spec}'")
    values = numbers.split(",")
    if len(values) > len(parameters):
        raise UsageError(f"augmentation '{name}' takes at most {len(parameters)} numbers, got '{spec}'")
    arguments = {
        parameter.name: _number(value, spec, whole=parameter.annotation is int)
        for parameter, value in zip(parameters, values, strict=False)
    }
    return functools.partial(function, **arguments)


def _number(value: str, spec: str, *, whole: bool) -> int | float:
    if whole:
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"augmentation '{spec}' needs a whole number of at least 1 behind the colon")
        return int(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"augmentation '{spec}' needs a positive number behind the colon")
    return number


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 images `[N, H, W, C]` as float32 with mean 0 and deviation 1: `(x / 255 - mean) / std` by channel."""
    # (x / 255 - mean) / std as one multiplication and one addition a pixel.
    factor = 1.0 / (255.0 * jnp.array(std, jnp.float32))
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return images.astype(jnp.float32) * factor - offset
