"""Decode an image file, or a part of it, and check that it is intact."""

import math

import numpy as np
from PIL import Image

from jaxcnn.array_types import Num, UInt8
from jaxcnn.data.decode import jpeg, pillow
from jaxcnn.data.decode.geometry import Box, Geometry, RandomBox


def decode(
    content: bytes,
    channels: int,
    geometry: Geometry = Geometry(),  # noqa: B008  # immutable
    random_box: RandomBox | None = None,
    random: np.random.Generator | None = None,
) -> UInt8[np.ndarray, "h w c"]:
    """Decode an image file by the rules of `jaxcnn.data.decode`.

    Args:
      content: bytes of the file.
      channels: number of channels of the result: 1 (gray), 3 (RGB) or 4 (RGBA, which needs no background).
      geometry: how to resize and crop the image. Default: the whole image at its own size.
      random_box: distribution of the random crop. Default: the center crop. A random crop needs `geometry.size` and
        `random`.
      random: random generator that draws the crop.

    Returns:
      Pixels, uint8 `[H, W, channels]`.

    Raises:
      NotAnImageError: if Pillow does not recognize the format of the file.
      ValueError: if the image is damaged, too large, or has pixels of an unsupported kind. A truncated JPEG file raises
        no error: its intact rows are decoded. Call `check` to detect a truncated file.
    """
    if channels not in (1, 3, 4):
        raise ValueError(f"unsupported number of image channels: {channels}. Use 1, 3 or 4.")
    if channels != 3 or not jpeg.is_jpeg(content):
        return _decode_with_pillow(content, channels, geometry, random_box, random)
    turned = pillow.orientation_of_jpeg(content)
    stored = jpeg.stored_size(content)
    height, width = turned.size(*stored)
    if geometry.size is None:
        pixels = jpeg.decode_rgb(content, *stored)
        if pixels is None:  # the file is not RGB, such as a CMYK file
            return _decode_with_pillow(content, channels, geometry, random_box, random)
        return turned.apply(pixels)
    box = _part(geometry, height, width, random_box, random)
    box = Box(*turned.box_before(box, *stored))
    size = turned.size(*geometry.size)
    # Choose the largest factor for which the reduced crop is at least as large as the result. libjpeg-turbo offers
    # other factors too, but only 2, 4 and 8 are fast.
    max_shrink = min((box.bottom - box.top) / size[0], (box.right - box.left) / size[1])
    shrink = next((factor for factor in (8, 4, 2) if factor <= max_shrink), 1)
    above = jpeg.without_rows_below(content, math.ceil(box.bottom))
    rows = jpeg.stored_size(above)[0]
    reduced = math.ceil(rows / shrink), math.ceil(stored[1] / shrink)
    pixels = jpeg.decode_rgb(above, *reduced, jpeg.buffer(3 * rows * stored[1]))
    if pixels is None:
        drawn = Box(*turned.box_after(box, *stored))
        return _decode_with_pillow(content, channels, geometry, random_box, random, drawn)
    # Do not compute the scale from the two widths: libjpeg-turbo rounds the reduced sides up.
    scale = 1.0 if pixels.shape[1] == stored[1] else 1 / shrink
    return turned.apply(_resize(pixels, Box(*(scale * x for x in box)), size))


def fit(
    pixels: Num[np.ndarray, "h w c"],
    geometry: Geometry,
    random_box: RandomBox | None = None,
    random: np.random.Generator | None = None,
) -> Num[np.ndarray, "height width c"]:
    """Resize and crop decoded pixels, as `decode` does for an image file.

    Args:
      pixels: array `[H, W, C]`, uint8 or float32.
      geometry, random_box, random: see `decode`.

    Returns:
      Pixels of the dtype of the input, `[height, width, C]`, where `geometry.size` is `(height, width)`.
    """
    height, width = pixels.shape[:2]
    if geometry.size is None:
        return pixels
    box = _part(geometry, height, width, random_box, random)
    if geometry.size == (height, width) and box == Box(0, 0, width, height):
        return pixels
    return _resize(pixels, box, geometry.size)


def check(content: bytes) -> tuple[int, int]:
    """Check that an image file can be decoded completely, as Pillow does in its strict mode.

    Returns:
      Height and width of the image, after its orientation is applied.

    Raises:
      NotAnImageError: if Pillow does not recognize the format of the file.
      ValueError: if the image is damaged, truncated, too large, or has pixels of an unsupported kind.
    """
    if jpeg.is_jpeg(content) and jpeg.is_intact(content):
        height, width = jpeg.stored_size(content)
        return pillow.orientation_of_jpeg(content).size(height, width)
    # Pillow accepts some files that libjpeg-turbo warns about.
    return _decode_with_pillow(content, 3, Geometry(), None, None).shape[:2]


def _decode_with_pillow(
    content: bytes,
    channels: int,
    geometry: Geometry,
    random_box: RandomBox | None,
    random: np.random.Generator | None,
    drawn: Box | None = None,
) -> np.ndarray:
    """Decode a file with Pillow. `drawn` is the random crop, or None if the caller has drawn no crop."""
    image = pillow.open_image(content)
    pillow.check_pixels(image.height, image.width)
    pixels = pillow.load_pixels(image, channels, geometry.background)
    if geometry.size is None:
        return pixels
    height, width = pixels.shape[:2]
    box = drawn or _part(geometry, height, width, random_box, random)
    return _resize(pixels, box, geometry.size)


def _part(
    geometry: Geometry, height: int, width: int, random_box: RandomBox | None, random: np.random.Generator | None
) -> Box:
    if random_box is None or random is None:
        return geometry.box(height, width)
    return random_box.draw(height, width, random)


def _resize(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resize the part `box` of an image `[H, W, C]` with a triangle filter, which is wider if the part shrinks."""
    # Crop before the resize: Pillow copies every pixel that it gets, and the filter must not read outside the part.
    left, top = max(math.floor(box.left), 0), max(math.floor(box.top), 0)
    cropped = pixels[top : math.ceil(box.bottom), left : math.ceil(box.right)]
    inside = (
        max(box.left - left, 0.0),
        max(box.top - top, 0.0),
        min(box.right - left, cropped.shape[1]),
        min(box.bottom - top, cropped.shape[0]),
    )
    channels = pixels.shape[-1]
    if channels in (3, 4) and pixels.dtype == np.uint8:
        return _resize_with_pillow(cropped, inside, size)
    planes = [np.ascontiguousarray(cropped[..., channel]) for channel in range(channels)]
    return np.stack([_resize_with_pillow(plane, inside, size) for plane in planes], axis=-1)


def _resize_with_pillow(
    pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Resize an array: uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]`, or float32 `[H, W]`."""
    resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)
