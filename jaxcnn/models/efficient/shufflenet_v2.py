"""ShuffleNet V2 (Ma, Zhang, Zheng, Sun: Practical Guidelines for Efficient CNN Architecture Design, 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import ChannelShuffle, Conv, GlobalAvgPool, Partial, initializers, norm_relu
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_block
from jaxcnn.models._stem import Stem


class ShuffleUnit(nn.Module):
    """Two branches, whose outputs are concatenated and shuffled (figure 3, c and d).

    `[N, H, W, C] -> [N, H / strides, W / strides, features]`. With stride 1, the input has `features` channels: the
    first half is kept, and the second half goes through the convolutions. With stride 2, the two branches get all
    channels, and the shortcut consists of a depthwise 3x3 and a 1x1 convolution. `conv` and `norm` are constructors of
    layers.
    """

    features: int
    strides: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        half = self.features // 2
        kept, y = (x[..., :half], x[..., half:]) if self.strides == 1 else (self.shortcut(x, train), x)
        y = norm_relu(self.norm(name="norm1"), self.conv(half, 1, name="conv1")(y), train)
        y = self.norm(name="norm2")(self.depthwise(y, "conv2"), train)
        y = norm_relu(self.norm(name="norm3"), self.conv(half, 1, name="conv3")(y), train)
        return ChannelShuffle(2)(jnp.concatenate([kept, y], axis=-1))

    def shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the output of the shortcut branch of a unit with stride 2."""
        y = self.norm(name="shortcut_norm1")(self.depthwise(x, "shortcut_conv1"), train)
        y = self.conv(self.features // 2, 1, name="shortcut_conv2")(y)
        return norm_relu(self.norm(name="shortcut_norm2"), y, train)

    def depthwise(self, x: jax.Array, name: str) -> jax.Array:
        """Return the output of a depthwise 3x3 convolution, which convolves each channel separately."""
        channels = x.shape[-1]
        return self.conv(channels, 3, self.strides, padding=1, feature_group_count=channels, name=name)(x)


class ShuffleNetV2(StagedClassifier, kw_only=True):
    """A stem, three stages of shuffle units, a 1x1 convolution and a classifier (table 5).

    `[N, H, W, C] -> [N, num_classes]`. Stages are numbered from 2, as in the paper. `StagedClassifier` describes the
    other fields.

    Fields:
      widths: output channels of each stage, and of the last convolution.
      stage_sizes: units in each stage. The first unit of each stage halves the height and width.
      stem_width: output channels of the stem.
    """

    widths: tuple[int, ...]
    stage_sizes: tuple[int, ...] = (4, 8, 4)
    stem_width: int = 24

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(2, len(self.stage_sizes) + 2))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        norm = Partial(self.norm, **self.policy)
        *widths, last_width = self.widths

        x = Stem(self.stem, self.stem_width, conv, norm, kernel_size=3, name="stem")(x, train)
        for stage, (units, width) in enumerate(zip(self.stage_sizes, widths, strict=True), start=2):
            for index in range(1, units + 1):
                unit = ShuffleUnit(width, 2 if index == 1 else 1, conv, norm, name=f"stage{stage}_block{index}")
                x = apply_block(unit, x, train, stage, remat)
        x = norm_relu(norm(name="last_norm"), conv(last_width, 1, name="last_conv")(x), train)
        return self.logits(GlobalAvgPool()(x))


# Table 5.
MODELS = {
    "shufflenet_v2_x0_5": partial(ShuffleNetV2, widths=(48, 96, 192, 1024)),
    "shufflenet_v2_x1_0": partial(ShuffleNetV2, widths=(116, 232, 464, 1024)),
    "shufflenet_v2_x1_5": partial(ShuffleNetV2, widths=(176, 352, 704, 1024)),
    "shufflenet_v2_x2_0": partial(ShuffleNetV2, widths=(244, 488, 976, 2048)),
}
