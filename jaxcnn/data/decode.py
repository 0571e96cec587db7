"""From the bytes of an image file to pixels of a wanted size.

JPEG is decoded by libjpeg-turbo at 1/2, 1/4 or 1/8 of its size where the wanted size allows it, which costs a fraction
of decoding it whole and resizing it, and no further down than its wanted part. Whatever else there is, Pillow decodes,
which like libjpeg-turbo leaves the interpreter to other threads meanwhile. For many small PNG files at once see
`jaxcnn.data._png_batch`.
"""

import io
import math
import threading
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

# An image beyond this is refused: a file of a few kilobytes can claim to have billions of pixels.
MOST_PIXELS = 200_000_000

# Decoded images up to this are written to memory that each thread keeps: where an image of half a megabyte gets new
# pages from the system each time, that takes half as long as decoding it.
MOST_KEPT_BYTES = 1 << 24

_kept = threading.local()

# Rows that a JPEG's unit of coding has at most, with the colours at half of the resolution.
BLOCK = 16

# The share of an image's shorter side that the middle square of an evaluation has: 224 of 256.
CENTRE = 0.875


class Box(NamedTuple):
    """A part of an image, in its pixels; not whole numbers where the image is resized anyway."""

    left: float
    top: float
    right: float
    bottom: float


class RandomBox(NamedTuple):
    """torchvision's RandomResizedCrop, drawn on the host for images of different sizes; ranges of area and shape."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def draw(self, height: int, width: int, random: np.random.Generator) -> Box:
        """A random part of an image; see `jaxcnn.data.augment.resized_crop`."""
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


def centre_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """The middle of an image, of the shape of `size`: 224 x 224 of an image whose shorter side is made 256."""
    scale = CENTRE * min(height / size[0], width / size[1])
    rows, columns = size[0] * scale, size[1] * scale
    return Box((width - columns) / 2, (height - rows) / 2, (width + columns) / 2, (height + rows) / 2)


def decode(content: bytes, channels: int) -> np.ndarray:
    """The pixels, uint8 `[H, W, channels]`, of an image file as it is.

    Raises:
      ValueError: content that is damaged, or no image.
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
    """A part of an image, uint8 `[*size, channels]`: a random one, or the middle.

    Raises:
      ValueError: content that is damaged, or no image.
    """
    height, width = size_of(content)
    if random_box is None or random is None:
        box = centre_box(height, width, size)
    else:
        box = random_box.draw(height, width, random)
    # How much smaller the image can be decoded with its part still of the wanted size. By 2, 4 or 8: libjpeg knows
    # other scales too, but no fast way to them.
    room = min((box.bottom - box.top) / size[0], (box.right - box.left) / size[1])
    shrink = next((factor for factor in (8, 4, 2) if factor <= room), 1)
    pixels = None
    if channels == 3 and content.startswith(b"\xff\xd8"):
        above = _without_rows_below(content, math.ceil(box.bottom))
        rows = size_of(above)[0]
        reduced = math.ceil(rows / shrink), math.ceil(width / shrink)
        pixels = _decode_jpeg(above, *reduced, _buffer(3 * rows * width))
    if pixels is None:
        pixels = _pixels(_open(content), channels)
    # Sides are rounded up, so that their ratio is not quite the scale.
    scale = 1.0 if pixels.shape[1] == width else 1 / shrink
    part = Box(box.left * scale, box.top * scale, box.right * scale, box.bottom * scale)
    # Cut out first: what Pillow takes over costs by the pixel, and nothing outside the part is to be looked at.
    left, top = math.floor(part.left), math.floor(part.top)
    cut = pixels[top : math.ceil(part.bottom), left : math.ceil(part.right)]
    inside = (
        part.left - left,
        part.top - top,
        min(part.right - left, cut.shape[1]),
        min(part.bottom - top, cut.shape[0]),
    )
    image = Image.fromarray(cut[..., 0] if channels == 1 else cut)
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=inside)
    return np.asarray(resized).reshape(*size, channels)


def size_of(content: bytes) -> tuple[int, int]:
    """Height and width of an image, from its header."""
    if content.startswith(b"\xff\xd8"):
        try:
            header: Any = simplejpeg.decode_jpeg_header(content, strict=False)
            height, width = header[:2]
        except (ValueError, KeyError):  # the latter for an unknown kind of colours
            width, height = _open(content).size
    else:
        width, height = _open(content).size
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")
    return height, width


def _decode_jpeg(content: bytes, min_height: int, min_width: int, buffer: Any = None) -> np.ndarray | None:
    """`[H, W, 3]` of at least these sides where the image has them, or None if it is for another decoder (CMYK).

    Args:
      buffer: memory to decode to, which is what the array is of.
    """
    try:
        return simplejpeg.decode_jpeg(
            content, "RGB", min_height=min_height, min_width=min_width, buffer=buffer, strict=False
        )
    except (ValueError, KeyError):
        return None


def _buffer(needed: int) -> np.ndarray | None:
    """Memory of this thread, in which the last image is until the next one; None for images that are too large."""
    if needed > MOST_KEPT_BYTES:
        return None
    if getattr(_kept, "buffer", None) is None or len(_kept.buffer) < needed:
        _kept.buffer = np.empty(needed, np.uint8)
    return _kept.buffer


def _without_rows_below(content: bytes, bottom: int) -> bytes:
    """A JPEG whose header ends the image a little below row `bottom`, so that the rest is not decoded.

    As it was if it is progressive, or something in it is unusual. The rows that are left have the same pixels: a block
    more is left than is needed, since the colours of the last row are mixed with those of the next.
    """
    place = 2
    while content[place : place + 1] == b"\xff" and place + 9 < len(content):
        marker = content[place + 1]
        if marker in (0xC0, 0xC1):  # the frame of an image that comes from top to bottom: length, bits, height, width
            rows = (bottom // BLOCK + 2) * BLOCK
            if rows >= int.from_bytes(content[place + 5 : place + 7], "big"):
                return content
            return b"".join((content[: place + 5], rows.to_bytes(2, "big"), content[place + 7 :]))
        if marker in (0xDA, 0xD9):  # the first scan, the end
            return content
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content


def _open(content: bytes) -> Image.Image:
    try:
        # Pillow asks each of its formats in turn, which for a small PNG takes as long as decoding it.
        return Image.open(io.BytesIO(content), formats=("PNG",) if content.startswith(b"\x89PNG") else None)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("not an image, or a damaged one") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise ValueError(f"images of {channels} channels are not decoded")
    try:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"a damaged image: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
