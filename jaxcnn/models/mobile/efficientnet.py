"""EfficientNet (Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019)."""

from functools import partial

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import BatchNorm, Dropout, Partial, silu
from jaxcnn.models.mobile._inverted_residual import (
    InvertedResidual,
    InvertedResidualNet,
    Row,
    make_divisible,
    stages_of,
)

# Table 1: stages 2 to 8 of EfficientNet-B0.
TABLE = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 40, 2, 2, kernel_size=5),
    Row(6, 80, 3, 2),
    Row(6, 112, 3, 1, kernel_size=5),
    Row(6, 192, 4, 2, kernel_size=5),
    Row(6, 320, 1, 1),
)


class EfficientNet(InvertedResidualNet, kw_only=True):
    """Inverted residual blocks with swish and squeeze-and-excitation (table 1). `[N, H, W, C] -> [N, num_classes]`.

    `InvertedResidualNet` describes the other fields. The stage numbers in `remat` are the numbers of rows of `table`,
    from 1.

    Fields:
      table: the rows of the paper's table 1, one for each stage.
      width, depth: `width` multiplies the channels of all layers, and `depth` multiplies the number of blocks of each
        row (section 3.3).
    """

    table: tuple[Row, ...] = TABLE
    width: float = 1.0
    depth: float = 1.0
    drop_path_rate: float = 0.2

    @property
    def rows(self) -> list[Row]:
        """The rows of `table`, scaled by `width` and `depth`."""
        return [Row(*row).scaled(self.width, self.depth) for row in self.table]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        stem = make_divisible(32 * self.width)
        block = Partial(mb_conv, self.excitation(activation=silu))
        stages = stages_of(self.rows, stem, block)
        last = 4 * stages[-1][-1].keywords["features"]
        x = self.pooled(x, train, stem=stem, stages=stages, last=last, activation=silu)
        return self.logits(Dropout(self.dropout_rate)(x, train))


def mb_conv(excitation: Partial, inputs: int, row: Row) -> Partial:
    """Return the constructor of an `InvertedResidual` for a block of `row` with `inputs` input channels.

    The squeeze-and-excitation has `inputs // 4` channels between its two layers.
    """
    return Partial(
        InvertedResidual,
        expanded=inputs * row.expansion,
        features=row.features,
        kernel_size=row.kernel_size,
        strides=row.strides,
        activation=silu,
        squeeze=max(1, inputs // 4),
        excitation=excitation,
    )


# The published weights of B5 to B7 are those of the authors, and need the epsilon and momentum of the authors' code.
official_norm = Partial(BatchNorm, momentum=0.99, epsilon=1e-3)

# Image sizes are those of published weights. The paper uses an image size of 260 for B2.
MODELS = {
    "efficientnet_b0": EfficientNet,
    "efficientnet_b1": partial(EfficientNet, depth=1.1, image_size=240),
    "efficientnet_b2": partial(EfficientNet, width=1.1, depth=1.2, image_size=288, dropout_rate=0.3),
    "efficientnet_b3": partial(EfficientNet, width=1.2, depth=1.4, image_size=300, dropout_rate=0.3),
    "efficientnet_b4": partial(EfficientNet, width=1.4, depth=1.8, image_size=380, dropout_rate=0.4),
    "efficientnet_b5": partial(
        EfficientNet, width=1.6, depth=2.2, image_size=456, dropout_rate=0.4, norm=official_norm
    ),
    "efficientnet_b6": partial(
        EfficientNet, width=1.8, depth=2.6, image_size=528, dropout_rate=0.5, norm=official_norm
    ),
    "efficientnet_b7": partial(
        EfficientNet, width=2.0, depth=3.1, image_size=600, dropout_rate=0.5, norm=official_norm
    ),
}
