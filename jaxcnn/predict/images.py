"""Image files, read as the model wants its images: nothing about them is guessed."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxcnn.data.decode import center_box
from jaxcnn.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The image files that are named, and those in folders that are named, in the order of their names.

    Raises:
      UsageError: a path that does not exist, or a folder without images.
    """
    found = []
    for path in map(Path, paths):
        path = path.expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise UsageError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path} does not exist; give image files, or a folder of them")
    if not found:
        raise UsageError("no images are given; give image files, or a folder of them")
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as uint8 `[H, W, C]` of the given shape, turned as its camera's note says.

    Of one of another size the middle is taken and scaled, as in evaluation on images of different sizes. Grey becomes
    colour; the other way round an image must be grey already. It must not be transparent.

    Raises:
      UsageError: a file that is no image or is damaged, or whose channels are not the model's.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise UsageError(f"the model takes images of {channels} channels; image files have 1 or 3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a size that only an attack has, of damage that was skipped
            with Image.open(path) as file:
                picture = _in_colour(ImageOps.exif_transpose(file), path)
    except UsageError:
        raise
    except Exception as error:  # decoders raise a zoo of types
        reason = " ".join(str(error).split())[:120] if path.stat().st_size else "it is empty"
        raise UsageError(f"{path} is no image that can be read: {reason}") from None
    if picture.size != (width, height):
        box = center_box(picture.height, picture.width, (height, width))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(picture, np.uint8)
    if channels == 3:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise UsageError(f"{path} is in colour, and the model was trained on grey images; make it grey first")
    return pixels[..., :1]


def _in_colour(picture: Image.Image, path: Path) -> Image.Image:
    """The picture in red, green and blue of 8 bits."""
    if picture.mode.startswith(("I", "F")):
        raise UsageError(f"{path} has pixels of more than 8 bits ({picture.mode}); save it with 8")
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise UsageError(f"{path} is transparent in places; put it on a background first")
    return picture.convert("RGB")
