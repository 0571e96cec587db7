"""Decode image files to pixels, at their own size or resized.

libjpeg-turbo decodes JPEG at 1/2, 1/4 or 1/8 of the resolution if the output size allows it, which is much cheaper
than decoding the whole image and resizing it. Rows below the wanted part are not decoded. Pillow decodes every other
format. Both decoders release the interpreter lock. `jaxcnn.data._png_batch` decodes many small PNG files at once.
"""

import io
import math
import threading
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

# Larger images are refused, since a file of a few kilobytes can declare billions of pixels.
MAX_PIXELS = 200_000_000

# Each thread reuses one buffer for decoded images up to this size. Allocating 0.5 MB for each image would add half of
# the decoding time, because the system has to map new pages.
MAX_BUFFER_BYTES = 1 << 24

_thread_local = threading.local()

# Maximum rows of a JPEG coding unit (MCU), reached when the chroma channels have half of the resolution.
MCU_ROWS = 16

# Side of the square that evaluation uses, as a fraction of the shorter side of the image: 224 / 256.
CENTER_FRACTION = 0.875


class Box(NamedTuple):
    """Part of an image, in pixels; the coordinates may be fractional."""

    left: float
    top: float
    right: float
    bottom: float


class RandomBox(NamedTuple):
    """Parameters of torchvision's RandomResizedCrop, for images of different sizes that are cropped on the host.

    Attributes:
      scale: minimum and maximum area of the part, as fractions of the image.
      ratio: minimum and maximum aspect ratio, width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def draw(self, height: int, width: int, random: np.random.Generator) -> Box:
        """Return a random part of an image, drawn as by `jaxcnn.data.augment.resized_crop`."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * random.uniform(*self.scale)
            shape = math.exp(random.uniform(low, high))
            columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < columns <= width and 0 < rows <= height:
                top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
                return Box(left, top, left + columns, top + rows)
        nearest = min(max(width / height, self.ratio[0]), self.ratio[1])
        rows, columns = min(height, round(width / nearest)), min(width, round(height * nearest))
        top, left = (height - rows) // 2, (width - columns) // 2
        return Box(left, top, left + columns, top + rows)


def center_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """Return the center crop of an image, with the aspect ratio of `size`.

    The result equals resizing the shorter side to 256 pixels and taking the central 224 x 224 pixels, for a `size` of
    (224, 224).
    """
    scale = CENTER_FRACTION * min(height / size[0], width / size[1])
    rows, columns = size[0] * scale, size[1] * scale
    return Box((width - columns) / 2, (height - rows) / 2, (width + columns) / 2, (height + rows) / 2)


def decode(content: bytes, channels: int) -> np.ndarray:
    """Decode an image file at its own size.

    Returns:
      Pixels, uint8 `[H, W, channels]`.

    Raises:
      ValueError: the content is damaged or is not an image.
    """
    decoded = None
    if channels == 3 and content.startswith(b"\xff\xd8"):
        decoded = _decode_jpeg(content, *size_of(content))
    return _pixels(_open(content), channels) if decoded is None else decoded


def decode_part(
    content: bytes,
    size: tuple[int, int],
    channels: int,
    random_box: RandomBox | None = None,
    random: np.random.Generator | None = None,
) -> np.ndarray:
    """Decode a part of an image file and resize it.

    Args:
      content: bytes of the file.
      size: height and width of the result.
      channels: number of channels of the result.
      random_box: distribution of the part; if None, decode the center crop.
      random: source of randomness; if None, decode the center crop.

    Returns:
      Pixels, uint8 `[*size, channels]`.

    Raises:
      ValueError: the content is damaged or is not an image.
    """
    height, width = size_of(content)
    if random_box is None or random is None:
        box = center_box(height, width, size)
    else:
        box = random_box.draw(height, width, random)
    # The largest factor that leaves the part at least as large as `size`. libjpeg offers other factors too, but only
    # 2, 4 and 8 are fast.
    max_shrink = min((box.bottom - box.top) / size[0], (box.right - box.left) / size[1])
    shrink = next((factor for factor in (8, 4, 2) if factor <= max_shrink), 1)
    pixels = None
    if channels == 3 and content.startswith(b"\xff\xd8"):
        above = _without_rows_below(content, math.ceil(box.bottom))
        rows = size_of(above)[0]
        reduced = math.ceil(rows / shrink), math.ceil(width / shrink)
        pixels = _decode_jpeg(above, *reduced, _buffer(3 * rows * width))
    if pixels is None:
        pixels = _pixels(_open(content), channels)
    # Not the quotient of the widths: libjpeg rounds the reduced sides up.
    scale = 1.0 if pixels.shape[1] == width else 1 / shrink
    part = Box(box.left * scale, box.top * scale, box.right * scale, box.bottom * scale)
    # Crop before the resize: Pillow's copy costs time for each pixel, and the filter must not read outside the part.
    left, top = math.floor(part.left), math.floor(part.top)
    cropped = pixels[top : math.ceil(part.bottom), left : math.ceil(part.right)]
    inside = (
        part.left - left,
        part.top - top,
        min(part.right - left, cropped.shape[1]),
        min(part.bottom - top, cropped.shape[0]),
    )
    image = Image.fromarray(cropped[..., 0] if channels == 1 else cropped)
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=inside)
    return np.asarray(resized).reshape(*size, channels)


def size_of(content: bytes) -> tuple[int, int]:
    """Return the height and width that the header of an image file declares.

    Raises:
      ValueError: the content is not an image, or is larger than `MAX_PIXELS`.
    """
    if content.startswith(b"\xff\xd8"):
        try:
            header: Any = simplejpeg.decode_jpeg_header(content, strict=False)
            height, width = header[:2]
        except (ValueError, KeyError):  # KeyError: an unknown color space
            width, height = _open(content).size
    else:
        width, height = _open(content).size
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"image size out of range: {height} x {width} pixels. The maximum is {MAX_PIXELS:,} pixels.")
    return height, width


def _decode_jpeg(content: bytes, min_height: int, min_width: int, buffer: Any = None) -> np.ndarray | None:
    """Decode a JPEG at the lowest resolution that has at least the given height and width.

    Args:
      content: bytes of the file.
      min_height: minimum height of the result, if the image is that large.
      min_width: minimum width of the result, if the image is that large.
      buffer: memory for the result, which the returned array shares.

    Returns:
      Pixels, uint8 `[H, W, 3]`; or None if libjpeg-turbo cannot decode the file to RGB, such as CMYK.
    """
    try:
        return simplejpeg.decode_jpeg(
            content, "RGB", min_height=min_height, min_width=min_width, buffer=buffer, strict=False
        )
    except (ValueError, KeyError):
        return None


def _buffer(needed: int) -> np.ndarray | None:
    """Return this thread's buffer, which the next image overwrites; or None if `needed` bytes are too many."""
    if needed > MAX_BUFFER_BYTES:
        return None
    if getattr(_thread_local, "buffer", None) is None or len(_thread_local.buffer) < needed:
        _thread_local.buffer = np.empty(needed, np.uint8)
    return _thread_local.buffer


def _without_rows_below(content: bytes, bottom: int) -> bytes:
    """Reduce the height in a JPEG header so that rows far below `bottom` are not decoded.

    The decoded rows up to `bottom` are unchanged: one more coding unit than necessary is kept, because chroma
    upsampling mixes the last row with the next one. Progressive and unusual files are returned unchanged.
    """
    position = 2
    while content[position : position + 1] == b"\xff" and position + 9 < len(content):
        marker = content[position + 1]
        if marker in (0xC0, 0xC1):  # sequential frame: length, bits, height, width
            rows = (bottom // MCU_ROWS + 2) * MCU_ROWS
            if rows >= int.from_bytes(content[position + 5 : position + 7], "big"):
                return content
            return b"".join((content[: position + 5], rows.to_bytes(2, "big"), content[position + 7 :]))
        if marker in (0xDA, 0xD9):  # start of scan, end of image
            return content
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return content


def _open(content: bytes) -> Image.Image:
    try:
        # Naming the format saves Pillow's search through all formats, which takes as long as decoding a small PNG.
        return Image.open(io.BytesIO(content), formats=("PNG",) if content.startswith(b"\x89PNG") else None)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("not an image, or a damaged one") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise ValueError(f"unsupported number of image channels: {channels}. Use 1, 3 or 4.")
    try:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"damaged image: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
