"""Inception v3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture ..., 2015)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.core import FrozenDict

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    GlobalAvgPool,
    MaxPool,
    Partial,
    Sequential,
    initializers,
)
from jaxcnn.models._classifier import Classifier, Norm, StagedClassifier
from jaxcnn.models._stages import apply_block
from jaxcnn.models._stem import IMAGE_SHAPES
from jaxcnn.models.googlenet import ConvUnit, sow_logits

WIDE, HIGH = (1, 7), (7, 1)
SPLIT = ((384, (1, 3)), (384, (3, 1)))


def figure_5(pooled: int) -> Any:
    """Return the branches of a module for 35x35 feature maps; `pooled` is the pooling branch's number of channels."""
    return {
        "branch1x1": ((64, 1),),
        "branch5x5": ((48, 1), (64, 5)),
        "branch3x3_double": ((64, 1), (96, 3), (96, 3)),
        "branch_pool": ((pooled, 1),),
    }


def figure_6(width: int) -> Any:
    """Return the branches of a module for 17x17 feature maps.

    `width` is the number of channels between the 7x1 and 1x7 kernels.
    """
    return {
        "branch1x1": ((192, 1),),
        "branch7x7": ((width, 1), (width, WIDE), (192, HIGH)),
        "branch7x7_double": ((width, 1), (width, HIGH), (width, WIDE), (width, HIGH), (192, WIDE)),
        "branch_pool": ((192, 1),),
    }


# Modules for 8x8 feature maps, whose last 3x3 kernels are split into parallel 1x3 and 3x1 kernels.
FIGURE_7 = {
    "branch1x1": ((320, 1),),
    "branch3x3": ((384, 1), SPLIT),
    "branch3x3_double": ((448, 1), (384, 3), SPLIT),
    "branch_pool": ((192, 1),),
}

# Table 1, as the authors published it with their code: the channels and kernel sizes of each branch, by module. In
# modules whose names end in "a", the last convolutions have stride 2, and a max pooling is one more branch (figure 10).
MODULES = {
    "5b": figure_5(32),
    "5c": figure_5(64),
    "5d": figure_5(64),
    "6a": {"branch3x3": ((384, 3),), "branch3x3_double": ((64, 1), (96, 3), (96, 3))},
    "6b": figure_6(128),
    "6c": figure_6(160),
    "6d": figure_6(160),
    "6e": figure_6(192),
    "7a": {"branch3x3": ((192, 1), (320, 3)), "branch7x7x3": ((192, 1), (192, WIDE), (192, HIGH), (192, 3))},
    "7b": FIGURE_7,
    "7c": FIGURE_7,
}


class Mixed(nn.Module):
    """Parallel branches of convolutions, whose outputs are concatenated. `[N, H, W, C] -> [N, H', W', C']`.

    `branches` describes the convolutions of each branch, in the form of the values in `MODULES`. `unit` is the
    constructor of a `ConvUnit`. If `reduce` is true, the last convolution of each branch has stride 2 and no padding,
    and a max pooling is one more branch.
    """

    branches: Mapping[str, Any]
    unit: Callable[..., Any]
    reduce: bool = False

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        branches: list[Any] = []
        for name, sizes in self.branches.items():
            layers: list[Any] = [AvgPool(3, 1, padding=1)] if name == "branch_pool" else []
            for number, size in enumerate(sizes, start=1):
                is_strided = self.reduce and number == len(sizes)
                fields = {"strides": 2, "padding": 0} if is_strided else {}
                layers.append(self.layer(f"{name}_{number}", size, **fields))
            branches.append(Sequential(layers))
        if self.reduce:
            branches.append(MaxPool(3, 2))
        return Concat(branches)(x, train)

    def layer(self, name: str, size: Any, **fields: Any) -> Any:
        """Return a `ConvUnit`, where `size` is a pair (channels, kernel size).

        If `size` is a tuple of such pairs, return one parallel unit for each pair; the outputs of these units are
        concatenated.
        """
        if isinstance(size[0], tuple):
            return Concat([self.unit(*part, name=f"{name}{letter}") for part, letter in zip(size, "ab", strict=True)])
        return self.unit(*size, **fields, name=name)


class AuxiliaryHead(Classifier, kw_only=True):
    """A small classifier of intermediate features (figure 8), which sows its `logits` in the collection `aux_logits`.

    `[N, H, W, C] -> [N, num_classes]`. `unit` is the constructor of a `ConvUnit`. `pool` is the constructor of the
    first layer, a pooling.
    """

    unit: Callable[..., Any]
    pool: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        x = self.unit(128, 1, name="reduce")(self.pool()(x), train)
        x = self.unit(768, 5, padding=0, name="conv")(x, train)
        return sow_logits(self, self.logits(GlobalAvgPool()(x)))


class InceptionV3(StagedClassifier, kw_only=True):
    """A convolutional stem, eleven modules of parallel convolutions, and one auxiliary classifier in training.

    `[N, 299, 299, C] -> [N, num_classes]` (table 1). Any image size of at least 75 works. The auxiliary head follows
    the last module with 17x17 feature maps and sows `aux1/logits` in the collection `aux_logits`. The auxiliary head
    exists in training only, as in `GoogLeNet`. `StagedClassifier` describes the other fields. The stage numbers in
    `remat` are 5, 6 and 7, the first characters of the modules' names.

    Fields:
      modules: dict from the name of each module to its branches.
      norm: constructor of the normalization after each convolution.
      stem: "cifar" uses one 3x3 convolution at full size as the stem.
      aux_heads: whether the model has an auxiliary head.
      aux_pool: constructor of the pooling before the auxiliary head. This pooling must return at least 5x5 positions.
        None uses `AvgPool(5, 3)`, or `AdaptiveAvgPool(5)` if the feature maps are smaller than 17x17.
      dropout_rate: dropout rate before the logits.
    """

    modules: Mapping[str, Any] = FrozenDict(MODULES)
    norm: Norm | None = Partial(BatchNorm, epsilon=1e-3)
    aux_heads: bool = True
    aux_pool: Callable[..., Any] | None = None
    dropout_rate: float = 0.5

    def __post_init__(self) -> None:
        self.modules = FrozenDict(self.modules)  # hashable
        super().__post_init__()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images in the paper."""
        return (299, 299, 3) if self.stem == "imagenet" else IMAGE_SHAPES[self.stem]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages={int(name[0]) for name in self.modules})
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        unit = Partial(ConvUnit, conv=conv, norm=Partial(self.norm, **self.policy))

        if self.stem == "imagenet":
            x = unit(32, 3, strides=2, padding=0, name="conv1a")(x, train)
            x = unit(32, 3, padding=0, name="conv2a")(x, train)
            x = MaxPool(3, 2, name="pool1")(unit(64, 3, name="conv2b")(x, train))
            x = unit(80, 1, name="conv3b")(x, train)
            x = MaxPool(3, 2, name="pool2")(unit(192, 3, padding=0, name="conv4a")(x, train))
        else:
            x = unit(192, 3, name="conv1a")(x, train)
        for name, branches in self.modules.items():
            if name == "7a" and train and self.aux_heads:
                self.auxiliary_head(x, unit)
            module = Mixed(branches, unit, reduce=name.endswith("a"), name=f"mixed{name}")
            x = apply_block(module, x, train, int(name[0]), remat, materialize=False)
        return self.logits(Dropout(self.dropout_rate)(GlobalAvgPool()(x), train))

    def auxiliary_head(self, x: jax.Array, unit: Callable[..., Any]) -> None:
        """Apply the auxiliary head in training, if its parameters exist or are being initialized."""
        if self.is_initializing() or self.has_variable("params", "aux1"):
            default = Partial(AvgPool, 5, 3) if min(x.shape[1:3]) >= 17 else Partial(AdaptiveAvgPool, 5)
            fields = {"num_classes": self.num_classes, "pool": self.aux_pool or default, **self.policy}
            AuxiliaryHead(unit=unit, **fields, name="aux1")(x, train=True)


MODELS = {"inception_v3": InceptionV3}
