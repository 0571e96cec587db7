"""ResNet (He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015), and its plain counterpart."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import unknown_name
from jaxcnn.layers import Conv, GlobalAvgPool, Partial, ZeroPadShortcut, initializers, norm_relu, relu
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_residual_stages, drop_path, drops_paths
from jaxcnn.models._stem import Stem

Shortcut = Literal["A", "B", "none"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left).

    `[N, H, W, C] -> [N, H / strides, W / strides, features]`.
    """

    features: int
    strides: int
    shortcut: Shortcut
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv1")(x)
        y = norm_relu(self.norm(name="norm1"), y, train)
        y = self.conv(self.features, 3, padding=1, name="conv2")(y)
        return add_shortcut(self, x, y, self.norm(name="norm2"), train)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right).

    `[N, H, W, C] -> [N, H / strides, W / strides, 4 features]`.

    Fields:
      features: output channels of the 3x3 convolution if `groups` is 1 and `group_width` is 64.
      shortcut: kind of shortcut (section 3.3): "A", "B" or "none", as in `ResNet`.
      conv, norm: constructors of the convolutions and of the normalizations.
      stride_on_3x3: whether the 3x3 convolution has the stride ("v1.5"), as in published weights. In the paper, the
        first 1x1 convolution has the stride ("v1") and skips three quarters of the pixels.
      groups: number of groups of the 3x3 convolution. ResNeXt uses more than 1 group.
      group_width: number of channels in each group if `features` is 64. The number is proportional to `features`.
      drop_path_rate: rate of stochastic depth.
    """

    features: int
    strides: int
    shortcut: Shortcut
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    stride_on_3x3: bool = True
    groups: int = 1
    group_width: int = 64
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        width = self.features * self.group_width // 64 * self.groups
        first, second = (1, self.strides) if self.stride_on_3x3 else (self.strides, 1)
        y = self.conv(width, 1, first, name="conv1")(x)
        y = norm_relu(self.norm(name="norm1"), y, train)
        y = self.conv(width, 3, second, padding=1, feature_group_count=self.groups, name="conv2")(y)
        y = norm_relu(self.norm(name="norm2"), y, train)
        y = self.conv(4 * self.features, 1, name="conv3")(y)
        return add_shortcut(self, x, y, self.norm(name="norm3"), train)


def add_shortcut(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, norm: Any, train: bool) -> jax.Array:
    """Return `relu(norm(y) + shortcut(x))`, where `y` is the output of the block's last convolution."""
    skip = None if block.shortcut == "none" else shortcut(block, x, y.shape, train)
    if not drops_paths(block.drop_path_rate):
        return norm_relu(norm, y, train, residual=skip)
    y = drop_path(block.drop_path_rate, norm(y, train), train)
    return relu(y if skip is None else skip + y)


def shortcut(block: BasicBlock | Bottleneck, x: jax.Array, shape: tuple[int, ...], train: bool) -> jax.Array:
    """Return `x` if its shape is `shape`, else the result of the shortcut option A or B (section 3.3)."""
    if x.shape == shape:
        return x
    if block.shortcut == "A":
        return ZeroPadShortcut(shape[-1], block.strides)(x)
    projection = block.conv(shape[-1], 1, block.strides, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(projection, train)


class ResNet(StagedClassifier, kw_only=True):
    """A stem, stages of residual blocks, and a classifier (table 1). `[N, H, W, C] -> [N, num_classes]`.

    `StagedClassifier` describes the other fields.

    Fields:
      stage_sizes: blocks in each stage.
      block: constructor of a block, `BasicBlock` or `Bottleneck`.
      width: `features` of the blocks in the first stage. Each later stage has twice as many features as the stage
        before, at half the height and width.
      shortcut: kind of shortcut in blocks that change the shape: "A" pads with zeros, and "B" projects. "none" removes
        all shortcuts, which makes a plain network.
      drop_path_rate: rate of stochastic depth in the last block; `linear_decay` gives the rates of earlier blocks.
      scan_blocks: whether the program computes the equal blocks of a stage in one loop; see `apply_residual_stages`.

    Raises:
      UsageError: `shortcut` is unknown.
    """

    stage_sizes: tuple[int, ...]
    block: Callable[..., Any]
    width: int = 64
    shortcut: Shortcut = "B"
    drop_path_rate: float = 0.0
    scan_blocks: bool = False

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        if self.shortcut not in get_args(Shortcut):
            raise unknown_name("shortcut", self.shortcut, get_args(Shortcut))
        remat = self.recomputation(x, train, stages=range(1, len(self.stage_sizes) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        norm = Partial(self.norm, **self.policy)

        x = Stem(self.stem, self.width, conv, norm, name="stem")(x, train)
        block = Partial(self.block, shortcut=self.shortcut, conv=conv, norm=norm)
        x = apply_residual_stages(self, block, x, train, remat)
        return self.logits(GlobalAvgPool()(x))


# Section 4.2, for 32x32 images: a network with three stages of n blocks has 6 n + 2 layers.
cifar = partial(ResNet, block=BasicBlock, num_classes=10, width=16, stem="cifar", shortcut="A")
bottleneck_v1 = Partial(Bottleneck, stride_on_3x3=False)

# Table 1. "_v1" marks the paper's own bottlenecks. Published weights belong to the names without "_v1".
MODELS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
    "resnet50_v1": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=bottleneck_v1),
    "resnet101_v1": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=bottleneck_v1),
    "resnet152_v1": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=bottleneck_v1),
    **{f"resnet{6 * n + 2}_cifar": partial(cifar, stage_sizes=(n, n, n)) for n in (3, 5, 7, 9, 18, 200)},
    **{f"plain{6 * n + 2}_cifar": partial(cifar, stage_sizes=(n, n, n), shortcut="none") for n in (3, 5, 7, 9, 18)},
}
