"""Decode images with Pillow, with bit depth, orientation, transparency and color as in `jaxcnn.data.decode`."""

import contextlib
import functools
import importlib
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxcnn.array_types import Num, UInt8
from jaxcnn.data.decode.geometry import Background

MAX_PIXELS = 200_000_000
"""Maximum number of pixels of an image, since a file of a few kilobytes can declare billions of pixels."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation, a value from 1 to 8. The value 1 means upright."""

BITS_PER_SAMPLE = 258
"""TIFF tag of the number of bits per channel."""

COLORS = {"white": 255, "black": 0}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# Number of bytes at the start of a JPEG file that are searched for the orientation.
MAX_METADATA = 1 << 17

# Formats of Pillow that are refused, because they do not store pixels or another program decodes them. For EPS files,
# Pillow starts Ghostscript, which would run code in the file.
NOT_IMAGE_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")

# Modules that add formats to Pillow, with the function that registers these formats. None: importing the module
# registers its formats.
PLUGINS = {"pillow_jxl": None, "pillow_heif": "register_heif_opener"}

# Formats that store pixels of 16 bits in Pillow's mode "I".
SIXTEEN_BITS_IN_MODE_I = ("PNG", "PPM")


class NotAnImageError(ValueError):
    """Pillow does not recognize the format of a file."""


class Orientation(NamedTuple):
    """Operations that turn stored pixels upright: mirror columns and rows, then transpose."""

    transposed: bool = False
    mirrored_columns: bool = False  # whether to mirror the columns of the stored image
    mirrored_rows: bool = False

    @staticmethod
    def of(value: Any) -> "Orientation":
        """Return the orientation for a value of the EXIF tag. Unknown values mean upright."""
        if value not in range(2, 9):
            return Orientation()
        return Orientation(value >= 5, value in (2, 3, 7, 8), value in (3, 4, 6, 7))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the upright size of a stored image of `height` x `width` pixels."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn stored pixels `[H, W, C]` upright."""
        if self == Orientation():
            return pixels
        if self.mirrored_columns:
            pixels = pixels[:, ::-1]
        if self.mirrored_rows:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self.transposed else pixels)

    def box_before(self, box: tuple[float, ...], height: int, width: int) -> tuple[float, float, float, float]:
        """Convert a box (left, top, right, bottom) from upright to stored coordinates of an image.

        Args:
          box: part of the upright image, in pixels.
          height, width: size of the stored image.
        """
        left, top, right, bottom = box
        if self.transposed:
            left, top, right, bottom = top, left, bottom, right
        return self._mirror((left, top, right, bottom), height, width)

    def box_after(self, box: tuple[float, ...], height: int, width: int) -> tuple[float, float, float, float]:
        """Convert a box from stored to upright coordinates of an image: the inverse of `box_before`."""
        left, top, right, bottom = self._mirror(box, height, width)
        return (top, left, bottom, right) if self.transposed else (left, top, right, bottom)

    def _mirror(self, box: tuple[float, ...], height: int, width: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = box
        if self.mirrored_columns:
            left, right = width - right, width - left
        if self.mirrored_rows:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom


def orientation_of_jpeg(content: bytes) -> Orientation:
    """Return the orientation in the EXIF or XMP data of a JPEG."""
    # Most JPEG files have neither EXIF nor XMP data. Pillow would need 20 us to find this out.
    if b"Exif\x00" not in content[:MAX_METADATA] and b"adobe.com/xap" not in content[:MAX_METADATA]:
        return Orientation()
    try:
        return _orientation(open_image(content))
    except ValueError:  # the error is raised again when the pixels are decoded
        return Orientation()


def open_image(content: bytes) -> Image.Image:
    """Open an image file, without decoding its pixels.

    Raises:
      NotAnImageError: if Pillow does not recognize the format of the file.
      ValueError: if the header is damaged, or declares too many pixels for Pillow.
    """
    try:
        # Name the format of a PNG file: Pillow's search through all formats takes as long as decoding a small PNG file.
        formats = ("PNG",) if content.startswith(b"\x89PNG") else readable_formats()
        return Image.open(io.BytesIO(content), formats=formats)
    except Image.UnidentifiedImageError as error:
        raise NotAnImageError("the file is not an image, or is a damaged image") from error
    except Exception as error:  # Pillow raises exceptions of many types, and warnings about large images
        raise ValueError(f"damaged image: {_reason(error)}") from error


def check_pixels(height: int, width: int) -> None:
    """Raise `ValueError` if an image is empty, or larger than `MAX_PIXELS`."""
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"image size out of range: {height} x {width} pixels. The maximum is {MAX_PIXELS:,} pixels.")


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return the names of the image formats that Pillow can decode, including formats of installed `PLUGINS`."""
    Image.init()
    for module, register in PLUGINS.items():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if register is not None:
                getattr(plugin, register)()
    return tuple(name for name in Image.ID if name not in NOT_IMAGE_FORMATS)


def load_pixels(image: Image.Image, channels: int, background: Background) -> UInt8[np.ndarray, "h w c"]:
    """Decode the pixels of an opened image.

    Args:
      image: image from `open_image`, which this function modifies.
      channels: number of channels of the result: 1, 3 or 4.
      background: color behind transparent pixels, for 1 and 3 channels.

    Returns:
      Pixels, uint8 `[H, W, channels]`.

    Raises:
      ValueError: if the image is damaged, or has pixels of an unsupported kind.
    """
    try:
        image.load()
    except Exception as error:  # Pillow raises exceptions of many types
        raise ValueError(f"damaged image: {_reason(error)}") from error
    orientation = _orientation(image)
    if image.mode.startswith(("I", "F")):
        image = _as_8_bits(image)
    try:
        if channels != 4 and image.has_transparency_data:
            image = _composited(image, background)
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGBA" if channels == 4 else "RGB")
        pixels = np.asarray(image.convert(MODES[channels]))
    except Exception as error:  # Pillow raises exceptions of many types
        raise ValueError(f"unsupported pixel mode {image.mode}: {_reason(error)}") from error
    return orientation.apply(pixels.reshape(*pixels.shape[:2], channels))


def count_channels(image: Image.Image) -> int:
    """Return the number of color channels of an image, without transparency: 1 if it is gray, otherwise 3."""
    gray = image.mode in ("L", "LA", "La", "1", "F") or image.mode.startswith("I")
    return 1 if gray else 3


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of an image after its orientation is applied."""
    return _orientation(image).size(image.height, image.width)


def convert(pixels: Num[np.ndarray, "h w c"], channels: int, background: Background) -> Num[np.ndarray, "h w channels"]:
    """Convert pixels to another number of channels, by the rules for image files in `jaxcnn.data.decode`.

    Args:
      pixels: uint8 or float32 `[H, W, C]`, gray, RGB or RGBA. Float pixels with transparency must be from 0 to 1.
      channels: number of channels of the result: 1, 3 or 4.
      background: color behind transparent pixels, for 1 and 3 channels.

    Returns:
      Pixels of the dtype of the input, `[H, W, channels]`.

    Raises:
      ValueError: if the number of channels changes, and the old or the new number is not 1, 3 or 4.
    """
    given = pixels.shape[-1]
    if given == channels:
        return pixels
    if given not in MODES or channels not in MODES:
        raise ValueError(f"cannot convert images from {given} to {channels} channels")
    if pixels.dtype == np.uint8:
        return load_pixels(Image.fromarray(pixels[..., 0] if given == 1 else pixels), channels, background)
    if given == 4:
        alpha, behind = pixels[..., 3:], COLORS[background] / 255
        pixels = pixels[..., :3] * alpha + behind * (1 - alpha)
    if channels == 1:  # the weights of ITU-R BT.601, which Pillow uses
        return (pixels @ np.array([0.299, 0.587, 0.114], pixels.dtype))[..., None]
    opaque = [np.ones_like(pixels[..., :1])] if channels == 4 else []
    colors = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.concatenate([colors, *opaque], axis=-1)


def _orientation(image: Image.Image) -> Orientation:
    """Return the orientation that must still be applied to loaded pixels. Pillow already turns TIFF images upright."""
    try:
        return Orientation.of(image.getexif().get(ORIENTATION))
    except Exception:  # damaged metadata raises exceptions of many types
        return Orientation()


def _as_8_bits(image: Image.Image) -> Image.Image:
    """Scale gray pixels of 16 bits to 8 bits. A transparent gray level, if the image has one, becomes an alpha channel.

    Raises:
      ValueError: if the pixels have 32 bits, so that their range is unknown.
    """
    if image.mode == "F" or (image.mode == "I" and getattr(image, "format", None) not in SIXTEEN_BITS_IN_MODE_I):
        raise ValueError("pixels of 32 bits have no fixed value range. Save the image with 8 or 16 bits per channel.")
    values = np.asarray(image).astype(np.uint32)
    bits = 16
    if (tags := getattr(image, "tag_v2", None)) is not None:
        bits = int(np.max(tags.get(BITS_PER_SAMPLE, (16,))))
    largest = 2**bits - 1
    scaled = Image.fromarray(((np.minimum(values, largest) * 255 + largest // 2) // largest).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        scaled = Image.merge("LA", (scaled, alpha))
    return scaled


def _composited(image: Image.Image, background: Background) -> Image.Image:
    """Composite the image on a background of one color. Return an image in gray or RGB."""
    gray = image.mode in ("L", "LA", "La", "1")
    color = COLORS[background]
    behind = Image.new("RGBA", image.size, (color, color, color, 255))
    behind.alpha_composite(image.convert("RGBA"))
    return behind.convert("L" if gray else "RGB")


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
