"""Pre-activation ResNet (He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.kernels import materialize
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, GlobalAvgPool, StochasticDepth, initializers, linear_decay
from jaxcnn.models._stages import Remat, apply_block, check_stages, is_recomputed
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, Stem

ModuleDef = Callable[..., Any]


class PreActBasicBlock(nn.Module):
    """BN-ReLU-conv twice, and a clean path around (figure 4e). `[N, H, W, C] -> [N, H/s, W/s, features]`.

    Where the shape changes, the shortcut is a projection of the first activation. `dropout_rate` is of the dropout
    between the convolutions that wide residual networks may have.
    """

    features: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = materialize(x)
        active = nn.relu(self.norm(name="norm1")(x, train=train))
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv1")(active)
        y = nn.relu(self.norm(name="norm2")(y, train=train))
        y = Dropout(self.dropout_rate)(y, train=train)
        y = self.conv(self.features, 3, padding=1, name="conv2")(y)
        if self.drop_path_rate:
            y = StochasticDepth(self.drop_path_rate)(y, train=train)
        return y + shortcut(self, x, active, y)


class PreActBottleneck(nn.Module):
    """BN-ReLU-conv three times, 1x1, 3x3 and 1x1, and a clean path around. `[N, H, W, C] -> [N, H/s, W/s, 4 features]`.

    `stride_on_3x3` says which convolution moves with the stride: the 3x3, or the first 1x1 as in the paper.
    """

    features: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    dropout_rate: float = 0.0
    stride_on_3x3: bool = True
    drop_path_rate: float = 0.0
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        first, second = (1, self.strides) if self.stride_on_3x3 else (self.strides, 1)
        x = materialize(x)
        active = nn.relu(self.norm(name="norm1")(x, train=train))
        y = self.conv(self.features, 1, first, name="conv1")(active)
        y = nn.relu(self.norm(name="norm2")(y, train=train))
        y = self.conv(self.features, 3, second, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="norm3")(y, train=train))
        y = Dropout(self.dropout_rate)(y, train=train)
        y = self.conv(self.features * self.expansion, 1, name="conv3")(y)
        if self.drop_path_rate:
            y = StochasticDepth(self.drop_path_rate)(y, train=train)
        return y + shortcut(self, x, active, y)


def shortcut(block: PreActBasicBlock | PreActBottleneck, x: jax.Array, active: jax.Array, y: jax.Array) -> jax.Array:
    """The block's input itself where `y` has its shape, and a projection of its activation elsewhere."""
    if x.shape == y.shape:
        return x
    return block.conv(y.shape[-1], 1, block.strides, name="shortcut")(active)


class PreActResNet(nn.Module):
    """A residual network of pre-activation blocks, with a last normalisation behind them.

    `[N, H, W, C] -> [N, num_classes]`.

    Fields:
      stage_sizes: blocks in each stage.
      block: `PreActBasicBlock` or `PreActBottleneck`.
      num_classes: number of logits.
      width: features of the first stage; each later one has twice as many.
      stem: "imagenet" (7x7 at stride 2, BN, ReLU, max pooling) or "cifar" (one 3x3 at full size, nothing behind it).
      stem_width: features of the stem's convolution, if not `width`.
      dropout_rate: of the dropout inside the blocks.
      drop_path_rate: of stochastic depth in the last block; earlier ones have less of it (see `linear_decay`).
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
    stem_width: int | None = None
    dropout_rate: float = 0.0
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
        check_stages(self.remat, range(1, len(self.stage_sizes) + 1))
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **policy)
        norm = partial(self.norm, **policy)

        stem_norm = norm if self.stem == "imagenet" else None
        x = Stem(self.stem, self.stem_width or self.width, conv, stem_norm, name="stem")(x, train=train)
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                module = self.block(
                    features=self.width * 2**stage,
                    strides=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    dropout_rate=self.dropout_rate,
                    drop_path_rate=linear_decay(
                        self.drop_path_rate, sum(self.stage_sizes[:stage]) + index + 1, sum(self.stage_sizes)
                    ),
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = apply_block(module, x, train=train, recompute=is_recomputed(self.remat, stage + 1))
        x = nn.relu(norm(name="last_norm")(x, train=train))
        x = GlobalAvgPool()(x)
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


imagenet_basic = partial(PreActResNet, block=PreActBasicBlock)
imagenet_bottleneck = partial(PreActResNet, block=PreActBottleneck)
# Table 1: 18 blocks a stage of two layers each make 110, of three make 164, and 111 of three make 1001.
cifar = partial(PreActResNet, num_classes=10, width=16, stem="cifar")
cifar_bottleneck = partial(cifar, block=partial(PreActBottleneck, stride_on_3x3=False))

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
