"""Preprocessing of a run: convert image files to the input of the model, and the model's logits to class names.

The preprocessing is stored in the run directory when the run starts, and never changes. Resumed runs, evaluation,
prediction and visualization read the stored preprocessing. If the dataset changes later, the normalization and the
classes stay the same.
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
REMEDY = "Restore the file, or remove it to take the preprocessing from the dataset."

# Version 0.1 did not write these fields to preprocessing.json.
ADDED = ("resize", "crop_fraction", "background")


@dataclass(frozen=True)
class Preprocessing:
    """Convert the pixels of an image file to the input of the model, and the model's logits to probabilities.

    Attributes:
      image_shape: shape `(H, W, C)` of the images.
      mean: mean of each channel, from 0 to 1, which is subtracted from the pixels.
      std: standard deviation of each channel, by which the pixels are divided after the mean is subtracted.
      class_names: one name for each logit; empty if the labels are not classes.
      resize: how to resize images; see `jaxcnn.data.Geometry`.
      crop_fraction: fraction of the resized image that the center crop keeps; see `jaxcnn.data.Geometry`.
      background: color behind transparent pixels; see `jaxcnn.data.Geometry`.
      pixel_range: largest pixel value, by which pixels are divided first: 255 for uint8 images, 1 for float images.
      multi_label: whether an image can have several classes. If True, probabilities are the sigmoid of each logit.
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
          UsageError: if the images differ in size and `config.image_size` is None, or if `config.mean` or `config.std`
            does not have one number for each channel.
        """
        geometry = dataset.geometry(config.image_size, config.resize, config.crop_fraction, config.background)
        assert geometry.size is not None
        channels = dataset.image_shape[-1]
        for name, values in (("mean", config.mean), ("std", config.std)):
            if values is not None and len(values) != channels:
                raise UsageError(
                    f"{name} has {len(values)} numbers for {channels} channels. Give one number for each channel."
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
        """The dtype of the images: uint8, or float32 if the network was trained on float images."""
        return np.dtype(np.uint8 if self.pixel_range == 255.0 else np.float32)

    @property
    def geometry(self) -> Geometry:
        """The resizing and the crop that convert images to the shape `image_shape`."""
        return Geometry(self.image_shape[:2], self.resize, self.crop_fraction, self.background)

    def decode(self, content: bytes) -> np.ndarray:
        """Decode the bytes of an image file to a uint8 array of shape `image_shape`.

        Raises:
          NotAnImageError: if the content is in a format that Pillow cannot open.
          ValueError: if the image is damaged, truncated or too large, or if its pixel format is not supported.
        """
        decode.check(content)
        return decode.decode(content, self.image_shape[-1], self.geometry)

    def probabilities(self, logits: Float[Array, "n classes"]) -> Float[Array, "n classes"]:
        """Convert logits to probabilities `[N, classes]`: the softmax, or the sigmoid if `multi_label`."""
        return jax.nn.sigmoid(logits) if self.multi_label else jax.nn.softmax(logits, axis=-1)

    def normalize(self, images: Num[AnyArray, "n h w c"]) -> Float[Array, "n h w c"]:
        """Normalize images of the dataset to the input of the model, `[N, H, W, C]`."""
        return normalize(images, self.mean, self.std, self.pixel_range)


def write(folder: Path, preprocessing: Preprocessing) -> None:
    """Write the preprocessing to `preprocessing.json` in a run directory."""
    workdir.write_sealed(folder / PREPROCESSING, dataclasses.asdict(preprocessing))


def read(folder: Path) -> Preprocessing | None:
    """Return the preprocessing that a run directory stores, or None if `preprocessing.json` does not exist.

    Version 0.1 did not store how images are cropped. If version 0.1 resized an image, it then cropped the center of the
    image, with the crop fraction `decode.CROP_FRACTION`.

    Raises:
      UsageError: if `preprocessing.json` is damaged.
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
    """Return the preprocessing that `write` has stored as a JSON value.

    Raises:
      TypeError, ValueError, AttributeError, OverflowError: if a value is missing, unknown, or has a wrong type.
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
        raise ValueError("mean or std does not have one number for each channel, or image_shape is too large")
    if (
        not 0 < found.crop_fraction <= 1
        or min((*found.std, found.pixel_range)) <= 0
        or found.background not in get_args(decode.Background)
    ):
        raise ValueError("a value is out of range")
    if not isinstance(found.multi_label, bool) or not all(isinstance(name, str) for name in found.class_names):
        raise ValueError("a class name is not a string, or multi_label is not a boolean")
    return found
