"""Preprocessing for published weights: the image size, the crop and the normalization that the weights expect.

A file that `jaxcnn.weights.save` wrote records its preprocessing. timm describes the preprocessing of its weights in
`config.json` in the same directory. A state dict alone records no preprocessing. For a state dict, the preprocessing of
torchvision's published weights of the same model applies.

References:
  torchvision 0.28: the `transforms` of each `WeightsEnum`.
  timm 1.0: `pretrained_cfg` of the models on the Hugging Face hub.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.weights import _hub, safetensors

# Name of the entry in the metadata of a safetensors file.
ENTRY = "preprocessing"

_INTERPOLATIONS = ("bilinear", "bicubic")
_BACKGROUNDS = ("white", "black")
_LARGEST_SIDE = 65536
_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image for a model. The fields are named as in `jaxcnn.train.Config`.

    Attributes:
      mean: mean of each channel, which is subtracted from the pixel values between 0 and 1.
      std: standard deviation of each channel, by which the pixel values are divided after the mean is subtracted.
      image_size: height and width of the model's input in pixels.
      resize: how an image is resized before the center crop: "shorter", "stretch", or the length of the shorter side in
        pixels.
      crop_fraction: side of the center crop as a fraction of the resized image, or None for the default.
      interpolation: "bilinear" or "bicubic". Both kinds of interpolation average over several pixels when they shrink
        an image (antialiasing).
      background: color behind transparent pixels, "white" or "black".

    >>> preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), image_size=(28, 28))
    >>> Preprocessing.from_text(preprocessing.to_text()) == preprocessing
    True
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    resize: str | int = "shorter"
    crop_fraction: float | None = None
    interpolation: str = "bilinear"
    background: str = "white"

    def normalization_flags(self) -> str:
        """Return the flags of `jaxcnn train` that select this normalization.

        >>> Preprocessing((0.5,), (0.25,), (28, 28)).normalization_flags()
        '--mean 0.5 --std 0.25'
        """
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"--mean {mean} --std {std}"

    def for_one_channel(self) -> "Preprocessing":
        """Return the preprocessing for gray images: `mean` and `std` are averaged over the channels."""
        return dataclasses.replace(self, mean=(statistics.fmean(self.mean),), std=(statistics.fmean(self.std),))

    def normalizes_as(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Return whether `mean` and `std` equal the fields of this object to within 0.001."""
        theirs, ours = (*self.mean, *self.std), (*mean, *std)
        return len(theirs) == len(ours) and all(map(_is_close, theirs, ours))

    def to_text(self) -> str:
        """Return the preprocessing as JSON text, which `from_text` reads."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_text(text: str) -> "Preprocessing":
        """Return the preprocessing from JSON text that `to_text` wrote.

        Raises:
          ValueError: if the text is not JSON, or a field is missing, unknown or has an impossible value.
        """
        values = _parse(text)
        known = {field.name for field in dataclasses.fields(Preprocessing)}
        if not isinstance(values, dict) or values.keys() != known:
            raise ValueError(f"not a JSON object with the fields {', '.join(sorted(known))}")
        return _checked(values)


# torchvision resizes the shorter side to 256 pixels and crops the central 224x224 for most models.
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=(224, 224), resize=256, crop_fraction=224 / 256
)


def recorded_with(path: Path) -> Preprocessing | None:
    """Return the preprocessing that the file itself or timm's `config.json` next to the file states, or None.

    Raises:
      UsageError: if the preprocessing in the file or in `config.json` is damaged.
    """
    text = safetensors.recorded(path, ENTRY) if path.is_file() else None
    described = path.with_name(_hub.DESCRIPTION)
    try:
        if text is not None:
            return Preprocessing.from_text(text)
        return _described_by_timm(described)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        where = f"described in {described}" if text is None else f"recorded in {path}"
        raise UsageError(f"invalid preprocessing {where}: {reason}. Download or convert the weights again.") from None


def _described_by_timm(path: Path) -> Preprocessing | None:
    """Return the preprocessing in the file `path`, timm's description of weights; None if `path` is not such a file.

    Raises:
      ValueError: if a field is missing or has an impossible value.
    """
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    about = values.get("pretrained_cfg") if isinstance(values, dict) else None
    if not isinstance(about, dict):
        return None
    try:
        return _checked(
            {
                "mean": about["mean"],
                "std": about["std"],
                "image_size": about["input_size"][1:],
                "resize": "stretch" if about.get("crop_mode") == "squash" else "shorter",
                "crop_fraction": about["crop_pct"],
                "interpolation": about["interpolation"],
                "background": "white",
            }
        )
    except (KeyError, TypeError):
        raise ValueError("mean, std, input_size, crop_pct or interpolation is missing") from None


def _parse(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
      ValueError: if the text is not JSON, or the text is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _checked(values: Mapping[str, Any]) -> Preprocessing:
    """Return a `Preprocessing` with these values from JSON.

    Raises:
      ValueError: if a value is not possible, such as a negative standard deviation.
    """
    lists = {name: values[name] for name in ("mean", "std", "image_size")}
    if not all(isinstance(numbers, list) for numbers in lists.values()):
        raise ValueError(f"one of {', '.join(lists)} is not a list")
    mean, std, size = (tuple(numbers) for numbers in lists.values())
    if not all(map(_is_finite, (*mean, *std))) or not 0 < len(mean) == len(std) or min(std) <= 0:
        raise ValueError("mean and std are not one number for each channel, with std above 0")
    if len(size) != 2 or not all(map(_is_side, size)):
        raise ValueError("image_size is not two positive integers")
    if values["resize"] not in ("shorter", "stretch") and not _is_side(values["resize"]):
        raise ValueError("resize is not shorter, stretch or a positive integer")
    fraction = values["crop_fraction"]
    if fraction is not None and not (_is_finite(fraction) and 0 < fraction <= 1):
        raise ValueError("crop_fraction is not a number in (0, 1]")
    for name, known in (("interpolation", _INTERPOLATIONS), ("background", _BACKGROUNDS)):
        if values[name] not in known:
            raise ValueError(f"{name} is not one of {', '.join(known)}")
    return Preprocessing(**{**values, "mean": mean, "std": std, "image_size": size})


def _is_close(first: float, second: float) -> bool:
    return abs(first - second) < 1e-3


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIDE
