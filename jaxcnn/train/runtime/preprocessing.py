"""Preprocessing of a run: from image files to the input of the model, and from its logits to class names.

It is stored in the run directory when the run starts, and never changes: resuming, evaluation, prediction and
visualization read it from there. A dataset that changes later changes neither the normalization nor the classes.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxcnn.array_types import AnyArray, Array, Float, Num
from jaxcnn.data import Dataset, Geometry, decode, normalize
from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config
from jaxcnn.train.runtime import workdir

PREPROCESSING = "preprocessing.json"
REMEDY = "Restore it, or remove it to take it from the dataset."

# Fields that are not in files of version 0.1.
ADDED = ("resize", "crop_fraction", "background")


@dataclass(frozen=True)
class Preprocessing:
    """From the pixels of a file to the input of the model, and from its logits to classes.

    Attributes:
      image_shape: `(H, W, C)` of the images.
      mean: mean of the pixels of each channel, from 0 to 1, which is subtracted.
      std: standard deviation of each channel, which is divided by.
      class_names: one name for each logit; empty if the labels are not classes.
      resize, crop_fraction, background: see `jaxcnn.data.Geometry`.
      pixel_range: number that pixels are divided by first: 255 for uint8 images, 1 for float images.
      multi_label: whether an image can have several classes, so that each logit has a probability of its own.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    resize: Literal["shorter", "stretch"] | int = "shorter"
    crop_fraction: float = 1.0
    background: Literal["white", "black"] = "white"
    pixel_range: float = 255.0
    multi_label: bool = False

    @staticmethod
    def of(dataset: Dataset, config: Config) -> "Preprocessing":
        """Return the preprocessing of a new run on this dataset.

        Raises:
          UsageError: if images differ in size and the configuration gives no size; or `mean` and `std` do not have a
            number for each channel.
        """
        geometry = dataset.geometry(config.image_size, config.resize, config.crop_fraction, config.background)
        assert geometry.size is not None
        channels = dataset.image_shape[-1]
        for name, values in (("mean", config.mean), ("std", config.std)):
            if values is not None and len(values) != channels:
                raise UsageError(
                    f"{name} has {len(values)} numbers for {channels} channels. Give one for each channel."
                )
        mean, std = config.mean, config.std
        if mean is None or std is None:
            statistics = dataset.statistics(geometry)
            mean, std = mean or statistics.mean, std or statistics.std
        return Preprocessing(
            image_shape=(*geometry.size, channels),
            mean=mean,
            std=std,
            class_names=dataset.class_names,
            resize=geometry.resize,
            crop_fraction=geometry.crop_fraction,
            background=geometry.background,
            pixel_range=dataset.pixel_range,
        )

    @property
    def dtype(self) -> Any:
        """Type of the images: uint8, or float32 if the network was trained on floats."""
        return np.dtype(np.uint8 if self.pixel_range == 255.0 else np.float32)

    @property
    def geometry(self) -> Geometry:
        """The resize and the crop that bring images to `image_shape`."""
        return Geometry(self.image_shape[:2], self.resize, self.crop_fraction, self.background)

    def decode(self, content: bytes) -> np.ndarray:
        """Return the pixels of an image file, uint8 of shape `image_shape`.

        Raises:
          NotAnImageError: if the content has no format that Pillow can open.
          ValueError: if the image is damaged or truncated, too large, or has pixels of an unsupported kind.
        """
        decode.check(content)
        return decode.decode(content, self.image_shape[-1], self.geometry)

    def probabilities(self, logits: Float[Array, "n classes"]) -> Float[Array, "n classes"]:
        """Return the probabilities `[N, classes]` of logits: their softmax, or their sigmoid with several labels."""
        return jax.nn.sigmoid(logits) if self.multi_label else jax.nn.softmax(logits, axis=-1)

    def normalize(self, images: Num[AnyArray, "n h w c"]) -> Float[Array, "n h w c"]:
        """Return the input of the model, `[N, H, W, C]`, from images as the dataset has them."""
        return normalize(images, self.mean, self.std, self.pixel_range)


def write(folder: Path, preprocessing: Preprocessing) -> None:
    """Write `preprocessing.json` in a run directory."""
    workdir.write_sealed(folder / PREPROCESSING, dataclasses.asdict(preprocessing))


def read(folder: Path) -> Preprocessing | None:
    """Return the preprocessing of the run in a directory, or None if nothing is stored there.

    A file of version 0.1 has no geometry. Its runs took the center crop of `decode.CROP_FRACTION` where the images were
    resized.

    Raises:
      UsageError: if the file is damaged.
    """
    path = folder / PREPROCESSING
    if not path.exists():
        return None
    values = workdir.read_sealed(path, REMEDY).values
    if not any(name in values for name in ADDED):
        resized = workdir.read_config(folder).image_size is not None
        values = {**values, "crop_fraction": decode.CROP_FRACTION if resized else 1.0}
    try:
        return from_dict(values)
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise UsageError(f"{path} is damaged: a value is missing or wrong. {REMEDY}") from None


def from_dict(values: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing from the JSON value that `write` stores.

    Raises:
      TypeError, ValueError, AttributeError, OverflowError: a value is missing, unknown, or of another type.
    """
    arguments: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    found = Preprocessing(**arguments)
    height, width, channels = found.image_shape
    whole = [*found.image_shape] + ([] if found.resize in ("shorter", "stretch") else [found.resize])
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= 2**16 for side in whole):
        raise ValueError("a size is not a positive integer")
    numbers = [*found.mean, *found.std, found.crop_fraction, found.pixel_range]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        raise ValueError("a number is not finite")
    if not channels == len(found.mean) == len(found.std) or height * width > decode.MAX_PIXELS:
        raise ValueError("the shape does not fit")
    if (
        not 0 < found.crop_fraction <= 1
        or min((*found.std, found.pixel_range)) <= 0
        or found.background not in get_args(decode.Background)
    ):
        raise ValueError("a value is out of range")
    if not isinstance(found.multi_label, bool) or not all(isinstance(name, str) for name in found.class_names):
        raise ValueError("a class has no name")
    return found
