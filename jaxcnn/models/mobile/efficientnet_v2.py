"""EfficientNetV2 (Tan, Le: EfficientNetV2: Smaller Models and Faster Training, 2021)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import BatchNorm, Dropout, Partial, silu
from jaxcnn.models._classifier import Norm
from jaxcnn.models.mobile._inverted_residual import InvertedResidualNet, Row, add_shortcut, stages_of
from jaxcnn.models.mobile.efficientnet import mb_conv

# Table 4: stages 1 to 6 of EfficientNetV2-S. The rows of EfficientNetV2-M and EfficientNetV2-L are from the authors'
# code.
TABLE_S = (
    Row(1, 24, 2, 1, fused=True),
    Row(4, 48, 4, 2, fused=True),
    Row(4, 64, 4, 2, fused=True),
    Row(4, 128, 6, 2),
    Row(6, 160, 9, 1),
    Row(6, 256, 15, 2),
)
TABLE_M = (
    Row(1, 24, 3, 1, fused=True),
    Row(4, 48, 5, 2, fused=True),
    Row(4, 80, 5, 2, fused=True),
    Row(4, 160, 7, 2),
    Row(6, 176, 14, 1),
    Row(6, 304, 18, 2),
    Row(6, 512, 5, 1),
)
TABLE_L = (
    Row(1, 32, 4, 1, fused=True),
    Row(4, 64, 7, 2, fused=True),
    Row(4, 96, 7, 2, fused=True),
    Row(4, 192, 10, 2),
    Row(6, 224, 19, 1),
    Row(6, 384, 25, 2),
    Row(6, 640, 7, 1),
)


class FusedMBConv(nn.Module):
    """A widening 3x3 convolution, a narrowing 1x1 convolution without activation, and a shortcut (figure 2).

    `[N, H, W, C] -> [N, H / strides, W / strides, features]`. If `expanded` is C, the block has only the 3x3
    convolution, followed by an activation. `InvertedResidual` describes the fields.
    """

    expanded: int
    features: int
    kernel_size: int
    strides: int
    unit: Callable[..., Any]
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        widens = self.expanded != x.shape[-1]
        fused = Partial(self.unit, self.expanded if widens else self.features, self.kernel_size, strides=self.strides)
        y = fused(activation=silu, name="fused")(x, train)
        y = self.unit(self.features, 1, name="project")(y, train) if widens else y
        return add_shortcut(self, x, y, train)


class EfficientNetV2(InvertedResidualNet, kw_only=True):
    """Early stages without depthwise convolutions, and late stages as in EfficientNet.

    `[N, H, W, C] -> [N, num_classes]`. `InvertedResidualNet` describes the other fields. The stage numbers in `remat`
    are the numbers of rows of `table`, from 1.

    Fields:
      table: the rows of the paper's table 4, one for each stage.
    """

    table: tuple[Row, ...]
    norm: Norm | None = Partial(BatchNorm, epsilon=1e-3)
    drop_path_rate: float = 0.2
    image_size: int = 480

    @property
    def rows(self) -> list[Row]:
        """The rows of `table` as `Row` objects."""
        return [Row(*row) for row in self.table]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        excitation, stem = self.excitation(activation=silu), self.rows[0].features

        def block(inputs: int, row: Row) -> Partial:
            if not row.fused:
                return mb_conv(excitation, inputs, row)
            fields = {"features": row.features, "kernel_size": row.kernel_size, "strides": row.strides}
            return Partial(FusedMBConv, expanded=inputs * row.expansion, **fields)

        x = self.pooled(x, train, stem=stem, stages=stages_of(self.rows, stem, block), last=1280, activation=silu)
        return self.logits(Dropout(self.dropout_rate)(x, train))


# Image sizes are those of the paper's evaluation.
MODELS = {
    "efficientnet_v2_s": partial(EfficientNetV2, table=TABLE_S, image_size=384),
    "efficientnet_v2_m": partial(EfficientNetV2, table=TABLE_M, dropout_rate=0.3),
    "efficientnet_v2_l": partial(EfficientNetV2, table=TABLE_L, dropout_rate=0.4),
}
