"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, 2022)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import GELU, Conv, Dense, GlobalAvgPool, LayerNorm, LayerScale, Partial, initializers, linear_decay
from jaxcnn.models._classifier import Norm, StagedClassifier
from jaxcnn.models._stages import apply_block, drop_path


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, a two-layer perceptron at each position, and a shortcut (figure 4, right).

    `[N, H, W, C] -> [N, H, W, C]`. The hidden layer of the perceptron has `4 C` channels and the only activation of the
    block. `conv`, `dense`, `norm` and `scale` are constructors of layers. `drop_path_rate` is the rate of stochastic
    depth.
    """

    conv: Callable[..., Any]
    dense: Callable[..., Any]
    norm: Callable[..., Any]
    scale: Callable[..., Any]
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        channels = x.shape[-1]
        y = self.conv(channels, 7, padding=3, feature_group_count=channels, name="conv")(x)
        y = self.norm(name="norm")(y, train)
        y = self.dense(channels, name="fc2")(GELU()(self.dense(4 * channels, name="fc1")(y)))
        return x + drop_path(self.drop_path_rate, self.scale(name="scale")(y), train)


class ConvNeXt(StagedClassifier, kw_only=True):
    """A patch convolution, stages of blocks, 2x2 convolutions at stride 2 between stages, and a classifier (table 9).

    `[N, H, W, C] -> [N, num_classes]`. `StagedClassifier` describes the other fields.

    Fields:
      stage_sizes: blocks in each stage.
      widths: channels of each stage.
      patch_size: kernel size and stride of the first convolution. Use 1 or 2 for small images. Weights for one patch
        size do not fit another patch size.
      layer_scale: initial value of each block's `LayerScale`.
      drop_path_rate: rate of stochastic depth in the last block. From block to block, the rate grows linearly; the rate
        of the first block is 0.
      norm: constructor of the normalization layers. The last normalization gets features `[N, C]`.
      stem: "cifar" uses a 3x3 convolution at full size in place of the patch convolution.

    Raises:
      UsageError: `patch_size` is below 1.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (96, 192, 384, 768)
    patch_size: int = 4
    layer_scale: float = 1e-6
    drop_path_rate: float = 0.0
    norm: Norm | None = LayerNorm

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(1, len(self.stage_sizes) + 1))
        if self.patch_size < 1:
            raise UsageError(f"patch_size must be at least 1, got {self.patch_size}")
        initial = {"kernel_init": initializers.truncated_normal(0.02), **self.policy}
        conv, dense = Partial(Conv, **initial), Partial(Dense, **initial)
        norm, scale = Partial(self.norm, **self.policy), Partial(LayerScale, self.layer_scale, **self.policy)
        blocks, index = sum(self.stage_sizes), 0

        if self.stem == "imagenet":
            x = conv(self.widths[0], self.patch_size, self.patch_size, name="stem_conv")(x)
        else:
            x = conv(self.widths[0], 3, padding=1, name="stem_conv")(x)
        x = norm(name="stem_norm")(x, train)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            if stage > 1:
                x = norm(name=f"downsample{stage}_norm")(x, train)
                x = conv(width, 2, 2, name=f"downsample{stage}_conv")(x)
            for number in range(1, size + 1):
                rate = linear_decay(self.drop_path_rate, index, max(blocks - 1, 1))
                block = ConvNeXtBlock(conv, dense, norm, scale, rate, name=f"stage{stage}_block{number}")
                x = apply_block(block, x, train, stage, remat)
                index += 1
        return self.logits(norm(name="last_norm")(GlobalAvgPool()(x), train))


# Table 9, with the rates of stochastic depth of table 5.
MODELS = {
    "convnext_tiny": partial(ConvNeXt, stage_sizes=(3, 3, 9, 3), drop_path_rate=0.1),
    "convnext_small": partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), drop_path_rate=0.4),
    "convnext_base": partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), widths=(128, 256, 512, 1024), drop_path_rate=0.5),
    "convnext_large": partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), widths=(192, 384, 768, 1536), drop_path_rate=0.5),
}
