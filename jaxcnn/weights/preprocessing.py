"""How images are prepared for published weights: the size, the crop and the normalization that they were trained with.

A file that `jaxcnn.weights.save` wrote records its preprocessing. A state dict of torchvision or timm does not, so that
the preprocessing of torchvision's published weights of the same model applies.

References:
  torchvision 0.28: the `transforms` of each `WeightsEnum`, and `GoogLeNet._transform_input`.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.weights import safetensors
from jaxcnn.weights.names import TORCHVISION

# Name of the entry in the metadata of a safetensors file.
ENTRY = "preprocessing"

_INTERPOLATIONS = ("bilinear", "bicubic")
_BACKGROUNDS = ("white", "black")
_LARGEST_SIDE = 65536
_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Preprocessing:
    """Preparation of an image for a model. The fields have the names of those of `jaxcnn.train.Config`.

    Attributes:
      mean: mean of each channel, on the scale from 0 to 1, which is subtracted.
      std: standard deviation of each channel, on the scale from 0 to 1, to divide by.
      image_size: height and width of the model's input in pixels.
      resize: how an image is resized before the center crop: "shorter", "stretch", or the length of the shorter side in
        pixels.
      crop_fraction: side of the center crop as a fraction of the resized image, or None for the default.
      interpolation: "bilinear" or "bicubic". Both average over the pixels that they shrink (antialiasing).
      background: color behind transparent pixels, "white" or "black".
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
        """Return the preprocessing of gray images, with the average over the channels of mean and std."""
        return dataclasses.replace(self, mean=(statistics.fmean(self.mean),), std=(statistics.fmean(self.std),))

    def normalizes_as(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Return whether this mean and standard deviation are those of the weights, to three digits."""
        theirs, ours = (*self.mean, *self.std), (*mean, *std)
        return len(theirs) == len(ours) and all(map(_is_close, theirs, ours))

    def to_text(self) -> str:
        """Return the JSON that `from_text` reads."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_text(text: str) -> "Preprocessing":
        """Return the preprocessing that `to_text` wrote.

        Raises:
          ValueError: the text is not JSON, or a field is missing, unknown or has an impossible value.
        """
        try:
            values = json.loads(text)
            known = {field.name for field in dataclasses.fields(Preprocessing)}
            if not isinstance(values, dict) or values.keys() != known:
                raise ValueError(f"not an object with the fields {', '.join(sorted(known))}")
        except RecursionError:
            raise ValueError("nested too deeply") from None
        for name in ("mean", "std", "image_size"):
            if not isinstance(values[name], list):
                raise ValueError(f"{name} is not a list")
            values[name] = tuple(values[name])
        _check(values)
        return Preprocessing(**values)


# torchvision resizes the shorter side to 256 pixels and crops the central 224x224, unless stated otherwise below.
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=(224, 224), resize=256, crop_fraction=224 / 256
)

# torchvision's `transform_input` undoes ImageNet's normalization in the model and then applies this one: for pixels p
# in [0, 1], ((p - m) / s) * (s / 0.5) + (m - 0.5) / 0.5 = (p - 0.5) / 0.5.
_INCEPTION = dataclasses.replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

# torchvision's second set of weights (IMAGENET1K_V2).
_V2 = dataclasses.replace(IMAGENET, resize=232, crop_fraction=224 / 232)

# Preprocessing of published weights by the name of the model. In torchvision, only GoogLeNet sets `transform_input`.
PUBLISHED: dict[str, Preprocessing] = {**dict.fromkeys(TORCHVISION, IMAGENET), "googlenet_bn": _INCEPTION}

# Preprocessing of published files, by the names of the files, where it differs from that of other files of the model.
PUBLISHED_FILES: dict[str, Preprocessing] = {
    "resnet50-11ad3fa6.pth": _V2,
    "resnet101-cd907fc2.pth": _V2,
    "resnet152-f82ba261.pth": _V2,
    "resnext50_32x4d-1a0047aa.pth": _V2,
    "wide_resnet50_2-9ba9bcbe.pth": _V2,
}


def recorded(path: Path) -> Preprocessing | None:
    """Return the preprocessing that is known for this file: recorded in it, or published for its name.

    Raises:
      UsageError: the recorded preprocessing is damaged.
    """
    if path.suffix != ".safetensors":
        return PUBLISHED_FILES.get(path.name)
    text = safetensors.metadata(path).get(ENTRY)
    if text is None:
        return None
    try:
        return Preprocessing.from_text(text)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"invalid preprocessing recorded in {path}: {reason}. Convert the weights again.") from None


def _check(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a field of an impossible value."""
    mean, std, size = values["mean"], values["std"], values["image_size"]
    if not all(map(_is_finite, (*mean, *std))) or not 0 < len(mean) == len(std) or min(std) <= 0:
        raise ValueError("mean and std are not numbers for each channel, those of std above 0")
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


def _is_close(first: float, second: float) -> bool:
    return abs(first - second) < 1e-3


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIDE
