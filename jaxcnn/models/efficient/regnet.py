"""RegNet (Radosavovic, Kosaraju, Girshick, He, Dollar: Designing Network Design Spaces, 2020)."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import Conv, GlobalAvgPool, Partial, SqueezeExcitation, initializers, norm_relu
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_block
from jaxcnn.models._stem import Stem


class RegNetBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions of one width, and a shortcut (figure 4).

    `[N, H, W, C] -> [N, H / strides, W / strides, features]`.

    Fields:
      group_width: number of channels in each group of the 3x3 convolution.
      conv, norm: constructors of the convolutions and of the normalizations.
      squeeze: constructor of the `SqueezeExcitation` after the 3x3 convolution.
      squeeze_ratio: channels between the two layers of squeeze-and-excitation, as a fraction of the input channels C,
        or None for no squeeze-and-excitation.
    """

    features: int
    strides: int
    group_width: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    squeeze: Callable[..., Any]
    squeeze_ratio: float | None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        groups = self.features // self.group_width
        y = self.conv(self.features, 1, name="conv1")(x)
        y = norm_relu(self.norm(name="norm1"), y, train)
        y = self.conv(self.features, 3, self.strides, padding=1, feature_group_count=groups, name="conv2")(y)
        y = norm_relu(self.norm(name="norm2"), y, train)
        if self.squeeze_ratio is not None:
            y = self.squeeze(round(self.squeeze_ratio * x.shape[-1]), name="squeeze")(y)
        y = self.conv(self.features, 1, name="conv3")(y)
        if x.shape != y.shape:
            x = self.conv(self.features, 1, self.strides, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x, train)
        return norm_relu(self.norm(name="norm3"), y, train, residual=x)


class RegNet(StagedClassifier, kw_only=True):
    """A stem, stages of blocks, and a classifier (figure 3). `[N, H, W, C] -> [N, num_classes]`.

    `StagedClassifier` describes the other fields.

    Fields:
      stage_sizes: blocks in each stage. The first block of each stage halves the height and width.
      widths: channels of each stage.
      group_width: number of channels in each group of the 3x3 convolutions. A stage with fewer channels than
        `group_width` has one group.
      squeeze_ratio: channels between the two layers of squeeze-and-excitation, as a fraction of the block's input
        channels (RegNetY), or None for no squeeze-and-excitation (RegNetX).
      stem_width: output channels of the stem.
      stem: "cifar" uses stride 1 in the stem and in the first stage.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int
    squeeze_ratio: float | None = None
    stem_width: int = 32

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(1, len(self.stage_sizes) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        norm = Partial(self.norm, **self.policy)
        squeeze = Partial(SqueezeExcitation, kernel_init=initializers.he_normal, **self.policy)
        block = Partial(RegNetBlock, conv=conv, norm=norm, squeeze=squeeze, squeeze_ratio=self.squeeze_ratio)

        x = Stem(self.stem, self.stem_width, conv, norm, kernel_size=3, pool=False, name="stem")(x, train)
        for stage, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            group_width = min(self.group_width, width)
            for index in range(1, blocks + 1):
                strides = 2 if index == 1 and not (stage == 1 and self.stem == "cifar") else 1
                layer = block(width, strides, group_width, name=f"stage{stage}_block{index}")
                x = apply_block(layer, x, train, stage, remat)
        return self.logits(GlobalAvgPool()(x))


def design(depth: int, w_0: int, w_a: float, w_m: float, group_width: int) -> dict[str, Any]:
    """Return the fields of a `RegNet` of `depth` blocks, by the paper's rule (section 3.3, equations 2 to 4).

    The width of block j (from 0) starts at `w_0 + w_a j`. This width is rounded to the nearest `w_0 w_m^k` with a whole
    number k, and then to a multiple of 8. Consecutive blocks of equal width form a stage. Finally, the width of each
    stage is rounded to a multiple of the group width.

    >>> design(depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16)
    {'stage_sizes': (1, 2, 7, 12), 'widths': (32, 64, 160, 400), 'group_width': 16}
    """
    powers = [round(math.log(1 + w_a * block / w_0) / math.log(w_m)) for block in range(depth)]
    widths = [8 * round(w_0 * w_m**power / 8) for power in powers]
    stages = [(width, len(list(blocks))) for width, blocks in itertools.groupby(widths)]
    return {
        "stage_sizes": tuple(blocks for _, blocks in stages),
        "widths": tuple(_nearest_multiple(width, min(group_width, width)) for width, _ in stages),
        "group_width": group_width,
    }


def _nearest_multiple(width: int, divisor: int) -> int:
    """Return the multiple of `divisor` nearest to `width`.

    If this multiple is below 90% of `width`, return the next larger multiple of `divisor`.
    """
    nearest = max(1, (2 * width + divisor) // (2 * divisor)) * divisor
    return nearest if nearest >= 0.9 * width else nearest + divisor


regnet_x = RegNet
regnet_y = partial(RegNet, squeeze_ratio=0.25)

# Depth, w_0, w_a, w_m and group width of RegNetX and RegNetY, as the authors published them with their code.
MODELS = {
    "regnet_x_400mf": partial(regnet_x, **design(22, 24, 24.48, 2.54, 16)),
    "regnet_x_800mf": partial(regnet_x, **design(16, 56, 35.73, 2.28, 16)),
    "regnet_x_1_6gf": partial(regnet_x, **design(18, 80, 34.01, 2.25, 24)),
    "regnet_x_3_2gf": partial(regnet_x, **design(25, 88, 26.31, 2.25, 48)),
    "regnet_x_8gf": partial(regnet_x, **design(23, 80, 49.56, 2.88, 120)),
    "regnet_x_16gf": partial(regnet_x, **design(22, 216, 55.59, 2.1, 128)),
    "regnet_x_32gf": partial(regnet_x, **design(23, 320, 69.86, 2.0, 168)),
    "regnet_y_400mf": partial(regnet_y, **design(16, 48, 27.89, 2.09, 8)),
    "regnet_y_800mf": partial(regnet_y, **design(14, 56, 38.84, 2.4, 16)),
    "regnet_y_1_6gf": partial(regnet_y, **design(27, 48, 20.71, 2.65, 24)),
    "regnet_y_3_2gf": partial(regnet_y, **design(21, 80, 42.63, 2.66, 24)),
    "regnet_y_8gf": partial(regnet_y, **design(17, 192, 76.82, 2.19, 56)),
    "regnet_y_16gf": partial(regnet_y, **design(18, 200, 106.23, 2.48, 112)),
    "regnet_y_32gf": partial(regnet_y, **design(20, 232, 115.89, 2.53, 232)),
    # Goyal et al.: Vision Models Are More Robust and Fair When Pretrained on Uncurated Images, 2022.
    "regnet_y_128gf": partial(regnet_y, **design(27, 456, 160.83, 2.52, 264)),
}
