"""Pre-activation ResNet (He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import Conv, Dropout, GlobalAvgPool, Partial, initializers, norm_relu
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_residual_stages, drop_path
from jaxcnn.models._stem import Stem


class PreActBasicBlock(nn.Module):
    """BN, ReLU and 3x3 convolution, twice, and an identity shortcut (figure 4e).

    `[N, H, W, C] -> [N, H / strides, W / strides, features]`. `dropout_rate` is the rate of the dropout between the two
    convolutions. Some wide residual networks use this dropout.
    """

    features: int
    strides: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        active = norm_relu(self.norm(name="norm1"), x, train)
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv1")(active)
        y = Dropout(self.dropout_rate)(norm_relu(self.norm(name="norm2"), y, train), train)
        y = self.conv(self.features, 3, padding=1, name="conv2")(y)
        return drop_path(self.drop_path_rate, y, train) + shortcut(self, x, active, y)


class PreActBottleneck(nn.Module):
    """BN, ReLU and convolution, three times (1x1, 3x3, 1x1), and an identity shortcut.

    `[N, H, W, C] -> [N, H / strides, W / strides, 4 features]`. If `stride_on_3x3` is true, the 3x3 convolution has the
    stride `strides`. Otherwise, the first 1x1 convolution has this stride, as in the paper.
    """

    features: int
    strides: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    dropout_rate: float = 0.0
    stride_on_3x3: bool = True
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        first, second = (1, self.strides) if self.stride_on_3x3 else (self.strides, 1)
        active = norm_relu(self.norm(name="norm1"), x, train)
        y = self.conv(self.features, 1, first, name="conv1")(active)
        y = norm_relu(self.norm(name="norm2"), y, train)
        y = self.conv(self.features, 3, second, padding=1, name="conv2")(y)
        y = Dropout(self.dropout_rate)(norm_relu(self.norm(name="norm3"), y, train), train)
        y = self.conv(4 * self.features, 1, name="conv3")(y)
        return drop_path(self.drop_path_rate, y, train) + shortcut(self, x, active, y)


def shortcut(block: PreActBasicBlock | PreActBottleneck, x: jax.Array, active: jax.Array, y: jax.Array) -> jax.Array:
    """Return the block's input `x` if `x` and `y` have the same shape, else a projection of `active`.

    `active` is the output of the first ReLU, and `y` is the output of the last convolution.
    """
    return x if x.shape == y.shape else block.conv(y.shape[-1], 1, block.strides, name="shortcut")(active)


class PreActResNet(StagedClassifier, kw_only=True):
    """Pre-activation blocks, followed by a normalization and a ReLU. `[N, H, W, C] -> [N, num_classes]`.

    `StagedClassifier` describes the other fields.

    Fields:
      stage_sizes: blocks in each stage.
      block: constructor of a block, `PreActBasicBlock` or `PreActBottleneck`.
      width: `features` of the blocks in the first stage. Each later stage has twice as many features as the stage
        before.
      stem_width: output channels of the stem; None uses `width`. The stem "cifar" has no normalization.
      dropout_rate: dropout rate inside the blocks.
      drop_path_rate: rate of stochastic depth in the last block; `linear_decay` gives the rates of earlier blocks.
      scan_blocks: whether the program computes the equal blocks of a stage in one loop; see `apply_residual_stages`.
    """

    stage_sizes: tuple[int, ...]
    block: Callable[..., Any]
    width: int = 64
    stem_width: int | None = None
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan_blocks: bool = False

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(1, len(self.stage_sizes) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        norm = Partial(self.norm, **self.policy)

        stem_norm = norm if self.stem == "imagenet" else None
        x = Stem(self.stem, self.stem_width or self.width, conv, stem_norm, name="stem")(x, train)
        block = Partial(self.block, conv=conv, norm=norm, dropout_rate=self.dropout_rate)
        x = apply_residual_stages(self, block, x, train, remat)
        x = norm_relu(norm(name="last_norm"), x, train)
        return self.logits(GlobalAvgPool()(x))


imagenet_basic = partial(PreActResNet, block=PreActBasicBlock)
imagenet_bottleneck = partial(PreActResNet, block=PreActBottleneck)
# Table 1. A network with three stages of 18 blocks has 110 layers if each block has two layers, and 164 layers if each
# block has three.
cifar = partial(PreActResNet, num_classes=10, width=16, stem="cifar")
cifar_bottleneck = partial(cifar, block=Partial(PreActBottleneck, stride_on_3x3=False))

MODELS = {
    "preact_resnet18": partial(imagenet_basic, stage_sizes=(2, 2, 2, 2)),
    "preact_resnet34": partial(imagenet_basic, stage_sizes=(3, 4, 6, 3)),
    "preact_resnet50": partial(imagenet_bottleneck, stage_sizes=(3, 4, 6, 3)),
    "preact_resnet101": partial(imagenet_bottleneck, stage_sizes=(3, 4, 23, 3)),
    "preact_resnet152": partial(imagenet_bottleneck, stage_sizes=(3, 8, 36, 3)),
    "preact_resnet200": partial(imagenet_bottleneck, stage_sizes=(3, 24, 36, 3)),
    "preact_resnet110_cifar": partial(cifar, stage_sizes=(18, 18, 18), block=PreActBasicBlock),
    "preact_resnet164_cifar": partial(cifar_bottleneck, stage_sizes=(18, 18, 18)),
    "preact_resnet1001_cifar": partial(cifar_bottleneck, stage_sizes=(111, 111, 111)),
}
