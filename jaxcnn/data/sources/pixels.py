"""Check the pixels of the user's own data, and convert them to uint8 or float32."""

from typing import Any

import jax
import numpy as np

from jaxcnn.data import decode
from jaxcnn.data.decode import Geometry
from jaxcnn.errors import UsageError

CHECKED_AT_ONCE = 1 << 24
"""Number of values to check at once, which limits the memory that the check needs."""

NARROWER = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


def to_array(value: Any) -> np.ndarray:
    """Convert an array of NumPy, JAX or torch, or nested lists, to a NumPy array, without a copy if possible.

    Raises:
      ValueError: if the value is not an array of numbers or strings.
    """
    if isinstance(value, np.ndarray | jax.Array):
        return np.asarray(value)
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu()  # a torch tensor
    numpy = getattr(value, "numpy", None)
    return np.asarray(numpy() if callable(numpy) else value)


def canonical(array: np.ndarray) -> np.ndarray:
    """Convert numbers of 64 bits to numbers of 32 bits, as JAX does by default. Other numbers are unchanged.

    Raises:
      ValueError: if the array does not contain numbers.
    """
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise ValueError(f"an array is of type {array.dtype}")
    return array.astype(NARROWER.get(array.dtype.name, array.dtype), copy=False)


def check_pixels(pixels: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    """Check images, and convert them to uint8 or float32.

    Integers must be from 0 to 255. False and True become 0 and 255. Floats must be finite, and keep their values.

    Args:
      pixels: images `[N, ...]`.
      what: name of the images for error messages, such as "the training images".
      first: index of the first image in its split, for error messages.

    Raises:
      UsageError: if a value is not a valid pixel. The message has the index of the first image with an invalid value.
    """
    kind = pixels.dtype.kind
    if kind == "b":
        return np.where(pixels, np.uint8(255), np.uint8(0))
    is_float = kind == "f" or pixels.dtype.name == "bfloat16"
    if not is_float and kind not in "iu":
        raise UsageError(f"{what} are of type {pixels.dtype}. Give uint8 from 0 to 255, or float32.")
    if pixels.dtype == np.uint8:
        return pixels
    at_once = max(1, CHECKED_AT_ONCE // max(1, pixels[:1].size))
    for start in range(0, len(pixels), at_once):
        part = pixels[start : start + at_once]
        right = np.isfinite(part) if is_float else (part >= 0) & (part <= 255)
        wrong = np.flatnonzero(~right.reshape(len(part), -1).all(1))
        if len(wrong):
            index, said = (
                first + start + int(wrong[0]),
                "NaN or infinite pixels" if is_float else "pixels outside 0 to 255",
            )
            remedy = "Remove or correct it." if is_float else "Scale the pixels to uint8, or give floats."
            raise UsageError(f"{what} have {said}, first in example {index}. {remedy}")
    return pixels.astype(np.float32 if is_float else np.uint8, copy=False)


def check_image_axes(shape: tuple[int, ...], what: str) -> None:
    """Raise `UsageError` if a shape is not `[N, H, W]` or `[N, H, W, C]`, or an image has no pixels."""
    remedy = "Give [N, H, W, C] or [N, H, W]."
    if len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4:
        remedy = "Move the channels to the end: images.transpose(0, 2, 3, 1)."
    elif len(shape) in (3, 4) and min(shape[1:]) > 0:
        return
    raise UsageError(f"{what} have the shape {list(shape)}. {remedy}")


def fit_images(
    images: np.ndarray,
    geometry: Geometry,
    channels: int,
    random_box: decode.RandomBox | None = None,
    randoms: Any = None,
) -> np.ndarray:
    """Resize and crop images, and convert them to a number of channels.

    Args:
      images: uint8 or float32 `[N, H, W, C]`.
      geometry: how to resize and crop the images.
      channels: number of channels of the result.
      random_box, randoms: see `Dataset.load`.

    Returns:
      Images of the dtype of the input, `[N, H, W, channels]`.

    Raises:
      ValueError: if the channels cannot be converted.
    """
    if len(images) == 0:
        size = geometry.size or images.shape[1:3]
        return np.empty((0, *size, channels), images.dtype)
    each_random = [None] * len(images) if randoms is None else randoms
    return np.stack(
        [
            decode.fit(decode.convert(image, channels, geometry.background), geometry, random_box, random)
            for image, random in zip(images, each_random, strict=True)
        ]
    )
