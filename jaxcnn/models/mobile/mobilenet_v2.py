"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018)."""

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import Dropout, Partial, relu6
from jaxcnn.models.mobile._inverted_residual import (
    InvertedResidual,
    InvertedResidualNet,
    Row,
    make_divisible,
    stages_of,
)

# Table 2: expansion (t), output channels (c), number (n) and stride (s) of each sequence of bottlenecks.
TABLE = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


class MobileNetV2(InvertedResidualNet, kw_only=True):
    """Inverted residual blocks with ReLU6 (table 2). `[N, H, W, C] -> [N, num_classes]`.

    `InvertedResidualNet` describes the other fields. The stage numbers in `remat` are the numbers of rows of `table`,
    from 1.

    Fields:
      table: the rows of the paper's table 2, one for each stage.
      width: factor by which the channels of all layers are multiplied (section 4). A factor below 1 does not apply to
        the last convolution.
    """

    table: tuple[Row, ...] = TABLE
    width: float = 1.0

    @property
    def rows(self) -> list[Row]:
        """The rows of `table`, scaled by `width`."""
        return [Row(*row).scaled(self.width) for row in self.table]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        stem = make_divisible(32 * self.width)
        last = make_divisible(1280 * max(self.width, 1.0))
        stages = stages_of(self.rows, stem, bottleneck)
        x = self.pooled(x, train, stem=stem, stages=stages, last=last, activation=relu6)
        return self.logits(Dropout(self.dropout_rate)(x, train))


def bottleneck(inputs: int, row: Row) -> Partial:
    """Return the constructor of a block of `row` that has `inputs` input channels."""
    fields = {"features": row.features, "kernel_size": row.kernel_size, "strides": row.strides}
    return Partial(InvertedResidual, expanded=inputs * row.expansion, **fields, activation=relu6)


MODELS = {"mobilenet_v2": MobileNetV2}
