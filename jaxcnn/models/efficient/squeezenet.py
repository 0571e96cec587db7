"""SqueezeNet (Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet: AlexNet-Level Accuracy ..., 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import Concat, Conv, Dropout, GlobalAvgPool, MaxPool, Partial, initializers, relu
from jaxcnn.models._classifier import Norm, StagedClassifier
from jaxcnn.models._stages import apply_block
from jaxcnn.models.googlenet import ConvUnit

# Channels of the squeeze layer, and of each half of the expand layer, of the modules fire2 to fire9 (table 1).
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


class Fire(nn.Module):
    """A 1x1 convolution to few channels, followed by parallel 1x1 and 3x3 convolutions (figure 1).

    `[N, H, W, C] -> [N, H, W, 2 expand]`. `unit` is the constructor of a `ConvUnit`.
    """

    squeeze: int
    expand: int
    unit: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        x = self.unit(self.squeeze, 1, name="squeeze")(x, train)
        return Concat([self.unit(self.expand, size, name=f"expand{size}x{size}") for size in (1, 3)])(x, train)


class SqueezeNet(StagedClassifier, kw_only=True):
    """A convolution, eight fire modules with three max poolings between them, and a convolution to the classes.

    `[N, 224, 224, C] -> [N, num_classes]` (figure 2, left, and table 1). The last convolution, `head`, has one feature
    map for each class. A logit is the mean of a feature map, so that every image size works. The input of `head` is
    `[N, H, W, C]`. `StagedClassifier` describes the other fields. The stage numbers in `remat` are 1, 2 and 3. A stage
    contains the fire modules between two poolings.

    Fields:
      stages: squeeze and expand channels of the fire modules of each stage.
      stem_width, stem_kernel: output channels and kernel size of the first convolution.
      dropout_rate: dropout rate before the last convolution.
      norm: constructor of the normalization after each convolution except the last. The normalization replaces the
        bias. None, as in the paper, uses no normalization.
      stem: "cifar" uses a 3x3 convolution at full size, without a pooling after this convolution.
    """

    stages: tuple[tuple[tuple[int, int], ...], ...]
    stem_width: int = 96
    stem_kernel: int = 7
    dropout_rate: float = 0.5
    norm: Norm | None = None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(1, len(self.stages) + 1))
        conv = Partial(Conv, use_bias=self.norm is None, kernel_init=initializers.he_uniform, **self.policy)
        unit = Partial(ConvUnit, conv=conv, norm=self.norm and Partial(self.norm, **self.policy))

        if self.stem == "imagenet":
            x = unit(self.stem_width, self.stem_kernel, strides=2, padding=0, name="conv1")(x, train)
        else:
            x = unit(self.stem_width, 3, name="conv1")(x, train)
        number = 2
        for stage, fires in enumerate(self.stages, start=1):
            if stage > 1 or self.stem == "imagenet":
                x = MaxPool(3, 2, ceil_mode=True, name=f"pool{stage}")(x)
            for squeeze, expand in fires:
                x = apply_block(Fire(squeeze, expand, unit, name=f"fire{number}"), x, train, stage, remat)
                number += 1
        maps = Partial(Conv, self.num_classes, 1, kernel_init=initializers.normal(0.01), param_dtype=self.param_dtype)
        x = Dropout(self.dropout_rate)(x, train)
        return GlobalAvgPool()(relu(maps(dtype=jnp.float32, name="head")(x)))


# Version 1.1, which the authors published with their code, has a smaller stem and earlier poolings.
MODELS = {
    "squeezenet1_0": partial(SqueezeNet, stages=(FIRES[:3], FIRES[3:7], FIRES[7:])),
    "squeezenet1_1": partial(SqueezeNet, stages=(FIRES[:2], FIRES[2:4], FIRES[4:]), stem_width=64, stem_kernel=3),
}
