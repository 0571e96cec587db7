"""How images are prepared for published weights: the size, the crop and the normalization that they were trained with.

A file that `jaxcnn.weights.save` wrote records its preprocessing. timm describes its weights in a file `config.json` in
the same directory. A state dict alone does not tell, so that the preprocessing of torchvision's published weights of
the same model applies.

References:
  torchvision 0.28: the `transforms` of each `WeightsEnum`, and `GoogLeNet._transform_input`.
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
        values = _parse(text)
        known = {field.name for field in dataclasses.fields(Preprocessing)}
        if not isinstance(values, dict) or values.keys() != known:
            raise ValueError(f"not an object with the fields {', '.join(sorted(known))}")
        return _checked(values)


# torchvision resizes the shorter side to 256 pixels and crops the central 224x224, unless stated otherwise below.
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=(224, 224), resize=256, crop_fraction=224 / 256
)

# torchvision's `transform_input` undoes ImageNet's normalization in the model and then applies this one: for pixels p
# in [0, 1], ((p - m) / s) * (s / 0.5) + (m - 0.5) / 0.5 = (p - 0.5) / 0.5.
_INCEPTION = dataclasses.replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _sized(side: int, resize: int, interpolation: str = "bilinear", base: Preprocessing = IMAGENET) -> Preprocessing:
    """Return a preprocessing with a center crop of `side` pixels of an image whose shorter side is `resize`."""
    crop, sides = side / resize, (side, side)
    return dataclasses.replace(base, image_size=sides, resize=resize, crop_fraction=crop, interpolation=interpolation)


# torchvision's second set of weights (IMAGENET1K_V2).
_V2 = _sized(224, 232)

# Weights pretrained on other images (SWAG) and then trained whole (END_TO_END) or in their last layer (LINEAR).
_END_TO_END, _LINEAR = (_sized(side, side, "bicubic") for side in (384, 224))

_EFFICIENTNET_SIZES = ((224, 256), (240, 256), (288, 288), (300, 320), (380, 384), (456, 456), (528, 528), (600, 600))
_EFFICIENTNET_V2_L = dataclasses.replace(_sized(480, 480, "bicubic"), mean=_INCEPTION.mean, std=_INCEPTION.std)

# Preprocessing of published weights by the name of the model. In torchvision, only GoogLeNet and Inception v3 set
# `transform_input`.
PUBLISHED: dict[str, Preprocessing] = {
    **dict.fromkeys(TORCHVISION, IMAGENET),
    "googlenet_bn": _INCEPTION,
    "inception_v3": _sized(299, 342, base=_INCEPTION),
    "convnext_tiny": _sized(224, 236),
    "convnext_small": _sized(224, 230),
    **dict.fromkeys(("convnext_base", "convnext_large", "resnext101_64x4d"), _V2),
    **dict.fromkeys(("shufflenet_v2_x1_5", "shufflenet_v2_x2_0"), _V2),
    "regnet_y_128gf": _LINEAR,
    "mnasnet0_75": _V2,
    "mnasnet1_3": _V2,
    **{f"efficientnet_b{n}": _sized(*sizes, "bicubic") for n, sizes in enumerate(_EFFICIENTNET_SIZES)},
    "efficientnet_v2_s": _sized(384, 384),
    "efficientnet_v2_m": _sized(480, 480),
    "efficientnet_v2_l": _EFFICIENTNET_V2_L,
}

# Preprocessing of published files, by the names of the files, where it differs from that of other files of the model.
PUBLISHED_FILES: dict[str, Preprocessing] = {
    "resnet50-11ad3fa6.pth": _V2,
    "resnet101-cd907fc2.pth": _V2,
    "resnet152-f82ba261.pth": _V2,
    "resnext50_32x4d-1a0047aa.pth": _V2,
    "wide_resnet50_2-9ba9bcbe.pth": _V2,
    "resnext101_32x8d-110c445d.pth": _V2,
    "wide_resnet101_2-d733dc28.pth": _V2,
    "regnet_x_400mf-62229a5f.pth": _V2,
    "regnet_x_800mf-94a99ebd.pth": _V2,
    "regnet_x_1_6gf-a12f2b72.pth": _V2,
    "regnet_x_3_2gf-7071aa85.pth": _V2,
    "regnet_x_8gf-2b70d774.pth": _V2,
    "regnet_x_16gf-ba3796d7.pth": _V2,
    "regnet_x_32gf-6eb8fdc6.pth": _V2,
    "regnet_y_400mf-e6988f5f.pth": _V2,
    "regnet_y_800mf-58fc7688.pth": _V2,
    "regnet_y_1_6gf-0d7bc02a.pth": _V2,
    "regnet_y_3_2gf-9180c971.pth": _V2,
    "regnet_y_8gf-dc2b1b54.pth": _V2,
    "regnet_y_16gf-3e4a00f9.pth": _V2,
    "regnet_y_32gf-8db6d4b5.pth": _V2,
    "regnet_y_16gf_lc_swag-f3ec0043.pth": _LINEAR,
    "regnet_y_32gf_lc_swag-e1583746.pth": _LINEAR,
    "regnet_y_16gf_swag-43afe44d.pth": _END_TO_END,
    "regnet_y_32gf_swag-04fdfa75.pth": _END_TO_END,
    "regnet_y_128gf_swag-c8ce3e52.pth": _END_TO_END,
    "mobilenet_v2-7ebf99e0.pth": _V2,
    "mobilenet_v3_large-5c1a4163.pth": _V2,
    "efficientnet_b1-c27df63c.pth": _sized(240, 255),
}


def recorded(path: Path) -> Preprocessing | None:
    """Return the preprocessing that is known for this file: recorded in it, described by timm, or published by name.

    Raises:
      UsageError: the recorded preprocessing, or its description, is damaged.
    """
    text = safetensors.recorded(path, ENTRY) if path.is_file() else None
    described = path.with_name(_hub.DESCRIPTION)
    try:
        if text is not None:
            return Preprocessing.from_text(text)
        return _described_by_timm(described) or PUBLISHED_FILES.get(path.name)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        where = f"described in {described}" if text is None else f"recorded in {path}"
        raise UsageError(f"invalid preprocessing {where}: {reason}. Download or convert the weights again.") from None


def _described_by_timm(path: Path) -> Preprocessing | None:
    """Return the preprocessing in timm's description of weights, or None if there is no such description.

    Raises:
      ValueError: a field is missing or has an impossible value.
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
      ValueError: the text is not JSON, or it is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _checked(values: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing with these values from JSON.

    Raises:
      ValueError: a value is impossible.
    """
    lists = {name: values[name] for name in ("mean", "std", "image_size")}
    if not all(isinstance(numbers, list) for numbers in lists.values()):
        raise ValueError(f"{', '.join(lists)} are not lists")
    mean, std, size = (tuple(numbers) for numbers in lists.values())
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
    return Preprocessing(**{**values, "mean": mean, "std": std, "image_size": size})


def _is_close(first: float, second: float) -> bool:
    return abs(first - second) < 1e-3


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIDE
