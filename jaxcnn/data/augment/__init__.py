"""Augmentation and normalization: pure functions of an image, run on the device inside the compiled step.

An augmentation is a function `(key, image) -> image` that preserves the shape `[H, W, C]` and the dtype. Pixel values
are from 0 to 255 for all dtypes.

The training step applies an augmentation to each image of the batch. The random key of an image depends on its index in
the global batch, so the result does not depend on the number of devices.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.array_types import AnyArray, Array, Float32, KeyArray, Num
from jaxcnn.data.augment._random_policies import BINS, OPERATIONS, randaugment, trivialaugment
from jaxcnn.errors import UsageError, shortened, unknown_name

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def flip(key: KeyArray, image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
    """Mirror the image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def shift(key: KeyArray, image: Num[Array, "h w c"], pixels: int = 2) -> Num[Array, "h w c"]:
    """Translate the image randomly by up to `pixels` in each direction and fill the border with 0 (black)."""
    return _random_window(key, jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0))), pixels)


def shift_reflect(key: KeyArray, image: Num[Array, "h w c"], pixels: int = 4) -> Num[Array, "h w c"]:
    """Translate the image randomly by up to `pixels` in each direction and fill the border by reflection.

    References:
      Zagoruyko and Komodakis, "Wide Residual Networks", 2016, section 3 (4 pixels on CIFAR-10).
    """
    return _random_window(key, jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="reflect"), pixels)


def _random_window(key: jax.Array, padded: jax.Array, pixels: int) -> jax.Array:
    """Return a random window of an image that has `pixels` of padding on each side.

    The window has the size of the image without padding.
    """
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    forms = {"tpu": _window_by_selection, "default": _window}
    forms = {platform: functools.partial(form, pixels) for platform, form in forms.items()}
    return jax.lax.platform_dependent(padded, top, left, **forms)


def _window(pixels: int, padded: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    """Return the window at (top, left). Its height and width are `2 * pixels` less than those of the padded image."""
    height, width, channels = padded.shape
    return jax.lax.dynamic_slice(padded, (top, left, 0), (height - 2 * pixels, width - 2 * pixels, channels))


def _window_by_selection(pixels: int, padded: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    """Return the same window as `_window`, with one `where` for each binary digit of `top` and `left`.

    Under `vmap`, slices at different positions become a gather, which XLA compiles for TPUs to a loop over images.
    """
    digits = (2 * pixels).bit_length()
    image = padded
    for axis, start in enumerate((top, left)):
        sides = [(0, 0)] * image.ndim
        sides[axis] = (0, 2**digits - 1 - 2 * pixels)
        image = jnp.pad(image, sides)
        for digit in reversed(range(digits)):
            size = image.shape[axis] - 2**digit
            near, far = (jax.lax.slice_in_dim(image, i, i + size, axis=axis) for i in (0, 2**digit))
            image = jnp.where((start >> digit) % 2 == 1, far, near)
    return image


def crop(key: KeyArray, image: Num[Array, "h w c"], padding: int = 4) -> Num[Array, "h w c"]:
    """Pad the image with `padding` zeros on each side and take a random window of the original size.

    `crop` is `shift` with `pixels=padding`. The name `crop` and the default, padding 4, come from the papers below,
    which use CIFAR-10.

    References:
      Lee et al., "Deeply-Supervised Nets", 2014.
      He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
    """
    return shift(key, image, padding)


def cutout(key: KeyArray, image: Num[Array, "h w c"], size: int = 16) -> Num[Array, "h w c"]:
    """Set a random square of `size` x `size` pixels to 0.

    The center is a random pixel, so part of the square may lie outside the image.

    References:
      DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, section 3.1
      (size 16 on CIFAR-10, 8 on CIFAR-100).
    """
    height, width, _ = image.shape
    center = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = center - size // 2
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
    """Crop a random part of the image and resize it to the original size: torchvision's RandomResizedCrop.

    Ten random parts are drawn, and the first part that fits into the image is used. If no part fits, the largest
    centered part with an allowed aspect ratio is used. The resize is bilinear with antialiasing.

    Args:
      key: random key.
      image: array `[H, W, C]`, with values from 0 to 255.
      smallest: minimum area of the part, as a fraction of the image. The fraction is drawn uniformly.
      largest: maximum area of the part, as a fraction of the image.
      narrowest: minimum aspect ratio, width / height. The logarithm of the ratio is drawn uniformly.
      widest: maximum aspect ratio, width / height.

    References:
      Szegedy et al., "Going Deeper with Convolutions", 2014, section 6. The defaults are torchvision's.
    """
    height, width, _ = image.shape
    top, left, rows, columns = crop_box(key, height, width, (smallest, largest), (narrowest, widest))
    vertical = _resize_weights(top, rows, height)
    horizontal = _resize_weights(left, columns, width)
    # Use full precision: bfloat16, the default on TPUs, is too inaccurate for the 256 levels of a pixel.
    resized = jnp.einsum(
        "yi,ijc,xj->yxc", vertical, image.astype(jnp.float32), horizontal, precision=jax.lax.Precision.HIGHEST
    )
    if jnp.issubdtype(image.dtype, jnp.integer):
        resized = jnp.clip(jnp.round(resized), 0, 255)
    return resized.astype(image.dtype)


def crop_box(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draw the random part of an image that `resized_crop` uses.

    Args:
      key: random key.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      scale: minimum and maximum area of the part, as fractions of the image.
      ratio: minimum and maximum aspect ratio, width / height.

    Returns:
      The upper left corner and the size of the part, `(top, left, rows, columns)`, as int32 scalars in pixels.
    """
    area_key, shape_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (10,), minval=scale[0], maxval=scale[1])
    shape = jnp.exp(jax.random.uniform(shape_key, (10,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    columns = jnp.round(jnp.sqrt(area * shape)).astype(jnp.int32)
    rows = jnp.round(jnp.sqrt(area / shape)).astype(jnp.int32)
    fits = (columns > 0) & (columns <= width) & (rows > 0) & (rows <= height)
    first = jnp.argmax(fits)
    # If no part fits, use the largest centered part with the allowed aspect ratio nearest to the ratio of the image.
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
    """Return the weights `[size, size]` that resize pixels `start` to `start + length` of one axis to `size` pixels.

    Row i contains the weights of all source pixels in output pixel i. The filter is the triangle filter of bilinear
    interpolation, and is wider if the part shrinks (antialiasing). Pixels outside the part have weight 0.
    """
    step = length / size
    center = start + (jnp.arange(size) + 0.5) * step - 0.5
    source = jnp.arange(size)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(source[None, :] - center[:, None]) / jnp.maximum(step, 1.0))
    weights = jnp.where((source >= start) & (source < start + length), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "flip": flip,
    "shift": shift,
    "shift_reflect": shift_reflect,
    "crop": crop,
    "cutout": cutout,
    "resized_crop": resized_crop,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}
"""Augmentations by name: functions `(key, image [H, W, C]) -> [H, W, C]`. All arguments after `image` have defaults."""


OF_THE_PIPELINE = ("alternating_flip",)
"""Augmentations that the pipeline applies, because they depend on the epoch; see `jaxcnn.data.alternating`."""

PIXELS = {"shift": "pixels", "shift_reflect": "pixels", "crop": "padding", "cutout": "size"}
"""Name of the argument that is a number of pixels, by augmentation. It must be less than the sides of the image."""

SMALLEST = 1e-4
"""Minimum value of an argument that is a fraction or an aspect ratio."""

LARGEST: dict[str, int] = {
    **dict.fromkeys(PIXELS.values(), 2**14),
    "smallest": 1,
    "largest": 1,
    "narrowest": 100,
    "widest": 100,
    "operations": len(OPERATIONS),
    "magnitude": BINS - 1,
}
"""Maximum value of each argument. The compiled code of `randaugment` grows with `operations`."""


def compose(specs: Sequence[str | Augmentation]) -> Augmentation:
    """Return an augmentation that applies the augmentations `specs` in order, each with its own random key.

    Args:
      specs: functions `(key, [H, W, C]) -> [H, W, C]`, or names of `AUGMENTATIONS`. A colon and numbers after a name
        set the arguments of the function. For example, "shift:1" translates by up to 1 pixel, and "randaugment:2,9"
        applies two operations of magnitude 9. If `specs` is empty, images do not change.

    Raises:
      UsageError: if a name is unknown or given twice, or an argument is invalid.
    """
    names = [spec.partition(":")[0] for spec in specs if isinstance(spec, str)]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(
                f"augmentation '{name}' is given twice: {' '.join(map(str, specs))}. Remove one of the two."
            )
    steps = [parse(spec) if isinstance(spec, str) else spec for spec in specs]

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for index, step in enumerate(steps):
            image = step(jax.random.fold_in(key, index), image)
        return image

    return augment


def parse(spec: str) -> Augmentation:
    """Return the augmentation that "NAME" or "NAME:NUMBER,NUMBER" describes, with its arguments set.

    Raises:
      UsageError: if the name is unknown, or an argument is invalid.
    """
    name, colon, numbers = spec.partition(":")
    if name in OF_THE_PIPELINE:
        raise UsageError(
            f"augmentation '{spec}' works only in a training run. Use '{name}' in a training run, and 'flip' elsewhere."
        )
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, [*AUGMENTATIONS, *OF_THE_PIPELINE])
    function = AUGMENTATIONS[name]
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if not colon:
        return function
    if not parameters:
        raise UsageError(f"augmentation '{name}' takes no arguments: '{spec}'. Write '{name}'.")
    values = numbers.split(",")
    if len(values) > len(parameters):
        limit = f"at most {len(parameters)} argument{'s' if len(parameters) > 1 else ''}"
        raise UsageError(f"augmentation '{name}' takes {limit}: '{spec}'. Remove the extra arguments.")
    arguments = {
        parameter.name: _parse_number(value, spec, parameter)
        for parameter, value in zip(parameters, values, strict=False)
    }
    if function is resized_crop:
        _check_order(spec, "smallest", "largest", arguments)
        _check_order(spec, "narrowest", "widest", arguments)
    return functools.partial(function, **arguments)


def _parse_number(value: str, spec: str, parameter: inspect.Parameter) -> int | float:
    most = LARGEST[parameter.name]
    if parameter.annotation is int:
        # Check the length first, because Python refuses to convert a very long string.
        if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
            raise _invalid(value, spec, f"Give an integer from 1 to {most}.")
        return int(value)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not SMALLEST <= number <= most:
        raise _invalid(value, spec, f"Give a number from {SMALLEST} to {most}.")
    return number


def _invalid(value: str, spec: str, remedy: str) -> UsageError:
    return UsageError(f"invalid argument of augmentation '{shortened(spec)}': {shortened(value)!r}. {remedy}")


def _check_order(spec: str, low: str, high: str, arguments: Mapping[str, float]) -> None:
    """Raise `UsageError` if the argument `low` of `resized_crop` is greater than the argument `high`."""
    defaults = inspect.signature(resized_crop).parameters
    least, most = (arguments.get(name, defaults[name].default) for name in (low, high))
    if least > most:
        raise UsageError(
            f"invalid arguments of augmentation '{spec}': {low} {least:g} is more than {high} {most:g}. "
            "Give the smaller of the two numbers first."
        )


def check_sizes(specs: Sequence[str | Augmentation], image_shape: Sequence[int | None]) -> None:
    """Check that the arguments in pixels of augmentations, such as "shift:4", are smaller than the images.

    Args:
      specs: augmentations; see `compose`. Augmentations that are functions are not checked.
      image_shape: shape `(H, W, C)` of the images. If the height or the width is None, it is not checked.

    Raises:
      UsageError: if an argument in pixels is not less than the shorter side of the images.
    """
    sides = [side for side in image_shape[:2] if side is not None]
    for spec in specs:
        name = spec.partition(":")[0] if isinstance(spec, str) else ""
        if name not in PIXELS or not sides:
            continue
        # `parse` binds an argument as the default of its parameter, so the default is the value to check.
        pixels: Any = inspect.signature(parse(str(spec))).parameters[PIXELS[name]].default
        if pixels >= min(sides):
            size = "x".join(map(str, sides))
            raise UsageError(
                f"augmentation '{spec}' is too large for images of {size} pixels: {pixels}. "
                "Use fewer pixels than the shorter side of the images."
            )


def normalize(
    images: Num[AnyArray, "n h w c"], mean: Sequence[float], std: Sequence[float], pixel_range: float = 255.0
) -> Float32[Array, "n h w c"]:
    """Standardize images `[N, H, W, C]` to float32 with mean 0 and standard deviation 1 in each channel.

    Args:
      images: uint8 or float `[N, H, W, C]`.
      mean: mean of each channel of `images / pixel_range`.
      std: standard deviation of each channel of `images / pixel_range`.
      pixel_range: 255 for uint8 images, 1 for float images.

    Returns:
      `(images / pixel_range - mean) / std`, float32.
    """
    # This form needs one multiplication and one subtraction for each pixel.
    factor = 1.0 / (pixel_range * jnp.array(std, jnp.float32))
    offset = jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)
    return jnp.asarray(images).astype(jnp.float32) * factor - offset
