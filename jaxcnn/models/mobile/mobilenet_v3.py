"""MobileNetV3 (Howard, Sandler, Chu, Chen, Chen, Tan, Wang et al.: Searching for MobileNetV3, 2019)."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import unknown_name
from jaxcnn.layers import BatchNorm, Dense, Dropout, Partial, hard_sigmoid, hard_swish, initializers, relu
from jaxcnn.models._classifier import Norm
from jaxcnn.models.mobile._inverted_residual import InvertedResidual, InvertedResidualNet, make_divisible

ACTIVATIONS = {"RE": relu, "HS": hard_swish}


class Bneck(NamedTuple):
    """An inverted residual block: a row of table 1 or 2.

    Fields:
      kernel_size: height and width of the depthwise kernel.
      expanded: channels of the depthwise convolution ("exp size").
      features: output channels ("#out").
      squeezes: whether the block has squeeze-and-excitation ("SE").
      activation: name of the activation function ("NL"): "RE" is ReLU, and "HS" is hard swish.
      strides: stride of the depthwise convolution ("s").
    """

    kernel_size: int
    expanded: int
    features: int
    squeezes: bool
    activation: str
    strides: int


Table = tuple[tuple[Bneck, ...], ...]
"""The rows of a table by stage: a stage ends where the next block has stride 2."""

# Table 1.
LARGE: Table = (
    (Bneck(3, 16, 16, False, "RE", 1),),
    (Bneck(3, 64, 24, False, "RE", 2), Bneck(3, 72, 24, False, "RE", 1)),
    (Bneck(5, 72, 40, True, "RE", 2), Bneck(5, 120, 40, True, "RE", 1), Bneck(5, 120, 40, True, "RE", 1)),
    (
        Bneck(3, 240, 80, False, "HS", 2),
        Bneck(3, 200, 80, False, "HS", 1),
        Bneck(3, 184, 80, False, "HS", 1),
        Bneck(3, 184, 80, False, "HS", 1),
        Bneck(3, 480, 112, True, "HS", 1),
        Bneck(3, 672, 112, True, "HS", 1),
    ),
    (Bneck(5, 672, 160, True, "HS", 2), Bneck(5, 960, 160, True, "HS", 1), Bneck(5, 960, 160, True, "HS", 1)),
)
# Table 2.
SMALL: Table = (
    (Bneck(3, 16, 16, True, "RE", 2),),
    (Bneck(3, 72, 24, False, "RE", 2), Bneck(3, 88, 24, False, "RE", 1)),
    (
        Bneck(5, 96, 40, True, "HS", 2),
        Bneck(5, 240, 40, True, "HS", 1),
        Bneck(5, 240, 40, True, "HS", 1),
        Bneck(5, 120, 48, True, "HS", 1),
        Bneck(5, 144, 48, True, "HS", 1),
    ),
    (Bneck(5, 288, 96, True, "HS", 2), Bneck(5, 576, 96, True, "HS", 1), Bneck(5, 576, 96, True, "HS", 1)),
)


class MobileNetV3(InvertedResidualNet, kw_only=True):
    """Inverted residual blocks found by search, with hard swish (tables 1 and 2). `[N, H, W, C] -> [N, num_classes]`.

    `InvertedResidualNet` describes the other fields. The stage numbers in `remat` are the positions in `table`, from 1.

    Fields:
      table: the rows of the paper's table 1 or 2, as one tuple of rows for each stage.
      width: factor by which the channels of all layers are multiplied (section 6.1).
      hidden: width of the fully connected layer before the classifier.
      norm: constructor of the normalization layers. The default norm has the epsilon and momentum of published weights.

    Raises:
      UsageError: an activation in `table` is unknown.
    """

    table: Table
    hidden: int
    width: float = 1.0
    norm: Norm | None = Partial(BatchNorm, momentum=0.99, epsilon=1e-3)

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        stages = [[self.bneck(row) for row in stage] for stage in self.table]
        last = 6 * stages[-1][-1].keywords["features"]
        x = self.pooled(x, train, stem=self.stem_features, stages=stages, last=last, activation=hard_swish)
        hidden = make_divisible(self.hidden * self.width)
        x = hard_swish(Dense(hidden, kernel_init=initializers.he_normal, **self.policy, name="fc")(x))
        return self.logits(Dropout(self.dropout_rate)(x, train))

    @property
    def stem_features(self) -> int:
        """Output channels of the first convolution."""
        return make_divisible(16 * self.width)

    @nn.nowrap
    def bneck(self, row: Bneck) -> Partial:
        """Return the constructor of the block in `row`.

        If the block has squeeze-and-excitation, the squeeze has a quarter of the `expanded` channels.
        """
        row = Bneck(*row)
        if row.activation not in ACTIVATIONS:
            raise unknown_name("activation in a row of MobileNetV3", row.activation, ACTIVATIONS)
        expanded = make_divisible(row.expanded * self.width)
        return Partial(
            InvertedResidual,
            expanded=expanded,
            features=make_divisible(row.features * self.width),
            kernel_size=row.kernel_size,
            strides=row.strides,
            activation=ACTIVATIONS[row.activation],
            squeeze=make_divisible(expanded // 4) if row.squeezes else 0,
            excitation=self.excitation(gate=hard_sigmoid),
        )


MODELS = {
    "mobilenet_v3_large": partial(MobileNetV3, table=LARGE, hidden=1280),
    "mobilenet_v3_small": partial(MobileNetV3, table=SMALL, hidden=1024),
}
