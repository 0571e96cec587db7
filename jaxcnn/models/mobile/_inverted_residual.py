"""Inverted residual blocks, and the network around them: a stem, stages, a last 1x1 convolution and a classifier."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import (
    Conv,
    GlobalAvgPool,
    Partial,
    SqueezeExcitation,
    initializers,
    linear_decay,
    norm_relu,
    relu,
)
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_block, drop_path

Activation = Callable[[jax.Array], jax.Array]

Stages = Sequence[Sequence[Partial]]
"""Constructors of the blocks of each stage, with all arguments bound except `unit`, `drop_path_rate` and `name`."""


class Row(NamedTuple):
    """A row of a paper's table: a sequence of equal blocks.

    Fields:
      expansion: channels of the depthwise convolution, as a multiple of the input channels.
      features: output channels.
      blocks: number of blocks. All blocks except the first have stride 1.
      strides: stride of the first block.
      kernel_size: height and width of the depthwise kernel.
      fused: whether the blocks are `FusedMBConv`, as in EfficientNetV2.
    """

    expansion: int
    features: int
    blocks: int
    strides: int
    kernel_size: int = 3
    fused: bool = False

    def scaled(self, width: float, depth: float = 1.0) -> "Row":
        """Return the row, with the channels multiplied by `width` and the number of blocks multiplied by `depth`."""
        features, blocks = make_divisible(self.features * width), math.ceil(self.blocks * depth)
        return self._replace(features=features, blocks=blocks)


def make_divisible(channels: float) -> int:
    """Return the multiple of 8 nearest to `channels`.

    If this multiple is below 90% of `channels`, return the next larger multiple of 8.

    The authors' code of MobileNetV2 and of its successors uses this rule.

    >>> [make_divisible(channels) for channels in (3, 19, 20, 17.6)]
    [8, 24, 24, 16]
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def stages_of(table: Sequence[Row], inputs: int, block: Callable[[int, Row], Any]) -> Stages:
    """Return the constructors of all blocks of a table, by stage.

    Args:
      table: a row for each stage.
      inputs: input channels of the first stage.
      block: function `(input channels, row)` that returns the constructor of a block; `row` has the block's own stride.
    """
    stages = []
    for row in table:
        first = block(inputs, row)
        stages.append([first, *[block(row.features, row._replace(strides=1))] * (row.blocks - 1)])
        inputs = row.features
    return stages


class ConvUnit(nn.Module):
    """A convolution, a normalization and an activation. `[N, H, W, C] -> [N, H / strides, W / strides, features]`.

    For a depthwise convolution, `groups` is equal to `features`. `conv` and `norm` are constructors of layers. With
    `activation=None`, there is no activation.
    """

    features: int
    kernel_size: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: int = 1
    groups: int = 1
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        padding, groups = self.kernel_size // 2, self.groups
        conv = self.conv(
            self.features, self.kernel_size, self.strides, padding, feature_group_count=groups, name="conv"
        )
        norm = self.norm(name="norm")
        if self.activation is relu:
            return norm_relu(norm, conv(x), train)
        x = norm(conv(x), train)
        return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Module):
    """A widening 1x1, a depthwise and a narrowing 1x1 convolution, and a shortcut.

    Source: Sandler et al., *MobileNetV2*, 2018 (table 1 and figure 4d).
    `[N, H, W, C] -> [N, H / strides, W / strides, features]`. The narrowing convolution has no activation. The widening
    convolution is left out if `expanded` is C. The shortcut is left out if the block changes the size or the number of
    channels.

    Fields:
      expanded: channels of the depthwise convolution.
      features: output channels.
      kernel_size, strides: kernel size and stride of the depthwise convolution.
      unit: constructor of a `ConvUnit`.
      activation: activation after the first two convolutions.
      squeeze: channels between the two layers of squeeze-and-excitation, or 0 for no squeeze-and-excitation.
      excitation: constructor of a `SqueezeExcitation` after the depthwise convolution (*MobileNetV3*, figure 4).
      drop_path_rate: rate of stochastic depth.
    """

    expanded: int
    features: int
    kernel_size: int
    strides: int
    unit: Callable[..., Any]
    activation: Activation
    squeeze: int = 0
    excitation: Callable[..., Any] = SqueezeExcitation
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y, wide = x, self.expanded
        if wide != x.shape[-1]:
            y = self.unit(wide, 1, activation=self.activation, name="expand")(y, train)
        depthwise = Partial(self.unit, wide, self.kernel_size, strides=self.strides, groups=wide)
        y = depthwise(activation=self.activation, name="depthwise")(y, train)
        if self.squeeze:
            y = self.excitation(self.squeeze, name="excitation")(y)
        y = self.unit(self.features, 1, name="project")(y, train)
        return add_shortcut(self, x, y, train)


def add_shortcut(block: Any, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
    """Return `y + x`, or `y` if its shape differs from the shape of `x`.

    `y` is the output of the block's branch for the input `x`.
    """
    if block.strides != 1 or x.shape[-1] != block.features:
        return y
    return drop_path(block.drop_path_rate, y, train) + x


class InvertedResidualNet(StagedClassifier, kw_only=True):
    """A 3x3 convolution of stride 2, stages of blocks, a 1x1 convolution, global average pooling, and a classifier.

    Kernels are initialized with He's variance for their fan-in. The fan-in of a depthwise convolution counts a single
    channel. `StagedClassifier` describes the other fields.

    Fields:
      dropout_rate: dropout rate before the logits.
      drop_path_rate: maximum of the rates of stochastic depth. The rate of each block is this maximum, multiplied by
        the fraction of blocks that come before the block.
      image_size: height and width of the images in the paper.
      stem: "cifar" uses stride 1 in the first two layers that would halve the image.
    """

    dropout_rate: float = 0.2
    drop_path_rate: float = 0.0
    image_size: int = 224

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images in the paper."""
        return (self.image_size, self.image_size, 3) if self.stem == "imagenet" else super().image_shape

    @nn.nowrap
    def excitation(self, **functions: Activation) -> Any:
        """Return the constructor of a `SqueezeExcitation` with the activation functions in `functions`."""
        return Partial(SqueezeExcitation, kernel_init=initializers.he_normal, **functions, **self.policy)

    @nn.nowrap
    def pooled(
        self, x: jax.Array, train: bool, *, stem: int, stages: Stages, last: int, activation: Activation
    ) -> jax.Array:
        """Return the features `[N, last]` before the classifier.

        Args:
          x: images `[N, H, W, C]`.
          train: whether the model is in training mode.
          stem, last: output channels of the first and of the last convolution.
          stages: constructors of the blocks of each stage.
          activation: activation after the first and after the last convolution.
        """
        remat = self.recomputation(x, train, stages=range(1, len(stages) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        unit = Partial(ConvUnit, conv=conv, norm=Partial(self.norm, **self.policy))
        keeps_size = self.stem == "cifar"

        x = unit(stem, 3, strides=1 if keeps_size else 2, activation=activation, name="stem")(x, train)
        depth, blocks = 0, sum(map(len, stages))
        for stage, constructors in enumerate(stages, start=1):
            for index, block in enumerate(constructors, start=1):
                if keeps_size and block.keywords["strides"] > 1:
                    block, keeps_size = Partial(block, strides=1), False
                rate = linear_decay(self.drop_path_rate, depth, blocks)
                layer = block(unit=unit, drop_path_rate=rate, name=f"stage{stage}_block{index}")
                x = apply_block(layer, x, train, stage, remat)
                depth += 1
        x = unit(last, 1, activation=activation, name="last")(x, train)
        return GlobalAvgPool()(x)
