"""Read image files in the shape that a model takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.train.runtime.preprocessing import Preprocessing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the given image files, and the image files in the given folders, sorted by name within a folder.

    Raises:
      UsageError: a path does not exist, or a folder has no images.
    """
    found = []
    for path in map(Path, paths):
        path = path.expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise UsageError(f"{path} contains no images; supported are {', '.join(SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path} does not exist; pass image files or folders of image files")
    if not found:
        raise UsageError("no images given; pass image files or folders of image files")
    return found


def read_image(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    """Return the pixels of an image file as training and evaluation see them, uint8 `[H, W, C]`.

    Raises:
      UsageError: the file cannot be read, or is not an image or damaged.
    """
    try:
        return preprocessing.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from None
