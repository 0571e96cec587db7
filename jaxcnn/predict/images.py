"""Read image files in the shape that a model takes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxcnn.data.decode import center_box
from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the given image files, and the image files in the given folders, sorted by name within a folder.

    Raises:
      UsageError: a path does not exist, or a folder has no images.
    """
    found = []
    for given in paths:
        path = local_path("image", given)
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


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an image file as uint8 `[H, W, C]` of the given shape, rotated by its EXIF orientation.

    An image of another size is center-cropped and resized, as in evaluation. A gray image is converted to color for a
    model of color images.

    Args:
      path: the file.
      shape: `(H, W, C)`, with 1 or 3 channels.

    Raises:
      UsageError: the file is not an image or is damaged; it is in color and the model takes gray images; it is
        transparent; it has more than 8 bits per channel; or the model takes neither 1 nor 3 channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise UsageError(f"the model takes images with {channels} channels; image files have 1 or 3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns about decompression bombs and some damage
            with Image.open(path) as file:
                picture = _as_rgb(ImageOps.exif_transpose(file), path)
    except UsageError:
        raise
    except Exception as error:  # Pillow's decoders have no common exception type
        reason = " ".join(str(error).split())[:120] if path.stat().st_size else "the file is empty"
        raise UsageError(f"{path} cannot be read as an image: {reason}") from None
    if picture.size != (width, height):
        box = center_box(picture.height, picture.width, (height, width))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(picture, np.uint8)
    if channels == 3:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise UsageError(f"{path} is in color, but the model was trained on gray images; convert it to gray first")
    return pixels[..., :1]


def _as_rgb(picture: Image.Image, path: Path) -> Image.Image:
    """Return the picture in RGB with 8 bits per channel."""
    if picture.mode.startswith(("I", "F")):
        raise UsageError(f"{path} has more than 8 bits per channel (mode {picture.mode}); save it with 8 bits")
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise UsageError(f"{path} has transparent pixels; add a background first")
    return picture.convert("RGB")
