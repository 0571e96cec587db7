"""Decode JPEG files with libjpeg-turbo, at reduced resolution and without decoding rows that are not needed.

Each function imports `simplejpeg` itself, so that a machine without `simplejpeg` can train on images in memory.
"""

import threading
from typing import Any

import numpy as np

from jaxcnn.data.decode import pillow

# Maximum size of the buffer for decoded images, which each thread reuses. Allocating 0.5 MB for each image would take
# half as long as decoding the image, because the system must map new memory pages.
MAX_BUFFER_BYTES = 1 << 24

# Maximum number of pixel rows of a JPEG coding unit (MCU), reached if chroma has half of the resolution.
MCU_ROWS = 16

_thread_local = threading.local()


def is_jpeg(content: bytes) -> bool:
    return content.startswith(b"\xff\xd8")


def stored_size(content: bytes) -> tuple[int, int]:
    """Return the height and width in the header of a JPEG, before its orientation is applied."""
    import simplejpeg

    try:
        header: Any = simplejpeg.decode_jpeg_header(content, strict=False)
        height, width = header[:2]
    except (ValueError, KeyError):  # KeyError: an unknown color space
        image = pillow.open_image(content)
        height, width = image.height, image.width
    pillow.check_pixels(height, width)
    return height, width


def is_intact(content: bytes) -> bool:
    """Return whether libjpeg-turbo decodes a JPEG to RGB without a warning. The resolution is the lowest, for speed."""
    import simplejpeg

    stored_size(content)  # raises an error if the image is too large for the memory
    try:
        return simplejpeg.decode_jpeg(content, "RGB", min_height=1, min_width=1, strict=True) is not None
    except (ValueError, KeyError):
        return False


def decode_rgb(content: bytes, min_height: int, min_width: int, buffer: Any = None) -> np.ndarray | None:
    """Decode a JPEG at the lowest resolution that has at least the given height and width.

    Args:
      content: bytes of the file.
      min_height: minimum height of the result. A smaller image keeps its height.
      min_width: minimum width of the result. A smaller image keeps its width.
      buffer: memory for the result. The returned array shares this memory.

    Returns:
      Pixels, uint8 `[H, W, 3]`; or None if libjpeg-turbo cannot decode the file to RGB, such as a CMYK file.
    """
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(
            content, "RGB", min_height=min_height, min_width=min_width, buffer=buffer, strict=False
        )
    except (ValueError, KeyError):
        return None


def buffer(needed: int) -> np.ndarray | None:
    """Return this thread's buffer for decoded images, or None if it would have more than `MAX_BUFFER_BYTES` bytes."""
    if needed > MAX_BUFFER_BYTES:
        return None
    if getattr(_thread_local, "buffer", None) is None or len(_thread_local.buffer) < needed:
        _thread_local.buffer = np.empty(needed, np.uint8)
    return _thread_local.buffer


def without_rows_below(content: bytes, bottom: int) -> bytes:
    """Reduce the height in a JPEG header so that rows far below `bottom` are not decoded.

    The decoded rows up to `bottom` are unchanged. One more row of coding units than necessary is decoded, because
    chroma upsampling mixes the last row with the next row. Progressive files, and files in which the height is not
    found, are returned unchanged.
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
