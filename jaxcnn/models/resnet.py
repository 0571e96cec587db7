"""ResNet (He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015), and its plain counterpart."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import unknown_name
from jaxcnn.kernels import materialize
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    GlobalAvgPool,
    StochasticDepth,
    ZeroPadShortcut,
    initializers,
    linear_decay,
)
from jaxcnn.models._stages import Remat, apply_block, check_stages, is_recomputed
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, Stem

ModuleDef = Callable[..., Any]
Shortcut = Literal["A", "B", "none"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them (figure 5, left). `[N, H, W, C] -> [N, H/s, W/s, features]`."""

    features: int
    strides: int
    shortcut: Shortcut
    conv: ModuleDef
    norm: ModuleDef
    drop_path_rate: float = 0.0
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = materialize(x)
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train))
        y = self.conv(self.features, 3, padding=1, name="conv2")(y)
        y = self.norm(name="norm2")(y, train=train)
        if self.drop_path_rate:
            y = StochasticDepth(self.drop_path_rate)(y, train=train)
        return nn.relu(add_shortcut(self, x, y, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the first of which narrows and the last widens (figure 5, right).

    `[N, H, W, C] -> [N, H/s, W/s, 4 * features]`. The paper moves the stride with the first convolution (v1);
    moving it with the 3x3 (`stride_on_3x3`, "v1.5") loses no pixels and is what published weights use. `groups`
    and `group_width` (channels of a group at `features = 64`) make it the block of ResNeXt or of a wide ResNet.
    """

    features: int
    strides: int
    shortcut: Shortcut
    conv: ModuleDef
    norm: ModuleDef
    stride_on_3x3: bool = True
    groups: int = 1
    group_width: int = 64
    drop_path_rate: float = 0.0
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = materialize(x)
        width = self.features * self.group_width // 64 * self.groups
        first, second = (1, self.strides) if self.stride_on_3x3 else (self.strides, 1)
        y = self.conv(width, 1, first, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, train=train))
        y = self.conv(width, 3, second, padding=1, feature_group_count=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train))
        y = self.conv(self.features * self.expansion, 1, name="conv3")(y)
        y = self.norm(name="norm3")(y, train=train)
        if self.drop_path_rate:
            y = StochasticDepth(self.drop_path_rate)(y, train=train)
        return nn.relu(add_shortcut(self, x, y, train))


def add_shortcut(block: BasicBlock | Bottleneck, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
    """`y` plus the shortcut of `x`, by the options of section 3.3: the identity wherever shapes allow it."""
    if block.shortcut == "none":
        return y
    if x.shape == y.shape:
        return x + y
    if block.shortcut == "A":
        return ZeroPadShortcut(y.shape[-1], block.strides)(x) + y
    projection = block.conv(y.shape[-1], 1, block.strides, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(projection, train=train) + y


class ResNet(nn.Module):
    """A residual network: a stem, stages of blocks that halve the size and double the width, and a classifier.

    `[N, H, W, C] -> [N, num_classes]`.

    Fields:
      num_classes: number of logits.
      stage_sizes: blocks in each stage, a row of table 1.
      block: `BasicBlock` or `Bottleneck`.
      width: features of the first stage.
      stem: "imagenet" (7x7 at stride 2, then max pooling; a quarter of the size) or "cifar" (3x3 at full size).
      drop_path_rate: of stochastic depth in the last block; earlier ones have less of it (see `linear_decay`).
      shortcut: where the shape changes, "A" pads with zeros and "B" projects; "none" makes a plain network.
      remat: stages whose blocks keep only their input and are computed again in the backward pass, which takes less
        memory and more time: True for all, or a tuple of numbers from 1.
      norm: constructor of the normalisation, such as `partial(BatchNorm, axis_name=None)`.
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.
    """

    stage_sizes: tuple[int, ...]
    block: ModuleDef
    num_classes: int = 1000
    width: int = 64
    stem: Kind = "imagenet"
    shortcut: Shortcut = "B"
    drop_path_rate: float = 0.0
    remat: Remat = False
    norm: ModuleDef = BatchNorm
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the paper has."""
        return IMAGE_SHAPES[self.stem]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.shortcut not in get_args(Shortcut):
            raise unknown_name("shortcut", self.shortcut, get_args(Shortcut))
        check_stages(self.remat, range(1, len(self.stage_sizes) + 1))
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **policy)
        norm = partial(self.norm, **policy)

        x = Stem(self.stem, self.width, conv, norm, name="stem")(x, train=train)
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                module = self.block(
                    features=self.width * 2**stage,
                    strides=2 if stage > 0 and index == 0 else 1,
                    shortcut=self.shortcut,
                    conv=conv,
                    norm=norm,
                    drop_path_rate=linear_decay(
                        self.drop_path_rate, sum(self.stage_sizes[:stage]) + index + 1, sum(self.stage_sizes)
                    ),
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = apply_block(module, x, train=train, recompute=is_recomputed(self.remat, stage + 1))

        x = GlobalAvgPool()(x)
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


def cifar(depth: int, shortcut: Shortcut = "A") -> Callable[..., nn.Module]:
    """The networks of section 4.2 for 32x32 images: 6 n + 2 layers, three stages of 16, 32 and 64 maps."""
    return partial(
        ResNet,
        stage_sizes=((depth - 2) // 6,) * 3,
        block=BasicBlock,
        num_classes=10,
        width=16,
        stem="cifar",
        shortcut=shortcut,
    )


bottleneck_v1 = partial(Bottleneck, stride_on_3x3=False)

# Table 1. The paper's own bottlenecks are those of "v1"; without it, a name means what published weights mean by it.
MODELS = {
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
    "resnet50_v1": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=bottleneck_v1),
    "resnet101_v1": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=bottleneck_v1),
    "resnet152_v1": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=bottleneck_v1),
    "resnet20_cifar": cifar(20),
    "resnet32_cifar": cifar(32),
    "resnet44_cifar": cifar(44),
    "resnet56_cifar": cifar(56),
    "resnet110_cifar": cifar(110),
    "resnet1202_cifar": cifar(1202),
    "plain20_cifar": cifar(20, shortcut="none"),
    "plain32_cifar": cifar(32, shortcut="none"),
    "plain44_cifar": cifar(44, shortcut="none"),
    "plain56_cifar": cifar(56, shortcut="none"),
    "plain110_cifar": cifar(110, shortcut="none"),
}
