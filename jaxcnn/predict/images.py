"""Read image files as arrays of the shape that a model accepts."""

from pathlib import Path

import numpy as np

from jaxcnn.array_types import UInt8
from jaxcnn.data.decode import NotAnImageError
from jaxcnn.data.imagefolder.reading import MAX_FILE_BYTES
from jaxcnn.errors import UsageError
from jaxcnn.train.runtime.preprocessing import Preprocessing


def read_image(path: Path, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Read an image file, resize and crop it as in training, and return the pixels as uint8 `[H, W, C]`.

    Args:
      path: path of the image file.
      preprocessing: the preprocessing of the trained model, such as `trained.preprocessing`.

    Raises:
      UsageError: if the file cannot be read, or is not an image that the model accepts. The message names the file.
    """
    try:
        return decode_file(path, preprocessing)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as an image: {reason_of(error)}") from error


def decode_file(path: Path, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Read an image file, resize and crop it, and return the pixels as uint8 `[H, W, C]`.

    Raises:
      NotAnImageError: if the file is empty, too large, or not an image.
      ValueError: if the image is damaged, or the model does not accept such an image.
      OSError: if the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise NotAnImageError("the file is empty")
    if size > MAX_FILE_BYTES:
        raise NotAnImageError(f"the file has {size:,} bytes; the maximum is {MAX_FILE_BYTES:,}")
    return preprocessing.decode(path.read_bytes())


def reason_of(error: Exception) -> str:
    """Return an error's message in one line of at most 200 characters."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
