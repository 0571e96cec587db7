"""MnasNet (Tan, Chen, Pang, Vasudevan et al.: MnasNet: Platform-Aware Neural Architecture Search for Mobile, 2019)."""

from functools import partial

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import BatchNorm, Dropout, Partial, relu
from jaxcnn.models._classifier import Norm
from jaxcnn.models.mobile._inverted_residual import (
    InvertedResidual,
    InvertedResidualNet,
    Row,
    make_divisible,
    stages_of,
)

# Model B1 of the authors' code: figure 7 without squeeze-and-excitation. The first row is the layer that the authors
# call SepConv.
TABLE = (
    Row(1, 16, 1, 1),
    Row(3, 24, 3, 2),
    Row(3, 40, 3, 2, kernel_size=5),
    Row(6, 80, 3, 2, kernel_size=5),
    Row(6, 96, 2, 1),
    Row(6, 192, 4, 2, kernel_size=5),
    Row(6, 320, 1, 1),
)


class MNASNet(InvertedResidualNet, kw_only=True):
    """Inverted residual blocks with ReLU, found by a search for low latency. `[N, H, W, C] -> [N, num_classes]`.

    `InvertedResidualNet` describes the other fields. The stage numbers in `remat` are the numbers of rows of `table`,
    from 1.

    Fields:
      table: the rows of model B1 in the authors' code, one for each stage.
      width: factor by which the channels of all layers except the last convolution are multiplied.
      norm: constructor of the normalization layers. The default norm has the momentum of the paper, 0.9997.
    """

    table: tuple[Row, ...] = TABLE
    width: float = 1.0
    norm: Norm | None = Partial(BatchNorm, momentum=0.9997)

    @property
    def rows(self) -> list[Row]:
        """The rows of `table`, scaled by `width`."""
        return [Row(*row).scaled(self.width) for row in self.table]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        stem = make_divisible(32 * self.width)
        stages = stages_of(self.rows, stem, mb_conv)
        x = self.pooled(x, train, stem=stem, stages=stages, last=1280, activation=relu)
        return self.logits(Dropout(self.dropout_rate)(x, train))


def mb_conv(inputs: int, row: Row) -> Partial:
    """Return the constructor of a block of `row` that has `inputs` input channels."""
    fields = {"features": row.features, "kernel_size": row.kernel_size, "strides": row.strides}
    return Partial(InvertedResidual, expanded=inputs * row.expansion, **fields, activation=relu)


MODELS = {
    "mnasnet0_5": partial(MNASNet, width=0.5),
    "mnasnet0_75": partial(MNASNet, width=0.75),
    "mnasnet1_0": MNASNet,
    "mnasnet1_3": partial(MNASNet, width=1.3),
}
