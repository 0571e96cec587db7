"""VGG (Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014)."""

from functools import partial
from typing import Any

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAvgPool,
    MaxPool,
    Partial,
    initializers,
    norm_relu,
    relu,
)
from jaxcnn.models._classifier import Norm, StagedClassifier
from jaxcnn.models._stages import apply_block

# Table 1: the kernel sizes before each of the five poolings. All columns of the table have the same widths.
COLUMN_A = ((3,), (3,), (3, 3), (3, 3), (3, 3))
COLUMN_B = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
COLUMN_C = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
COLUMN_D = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
COLUMN_E = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))
WIDTHS = (64, 128, 256, 512, 512)

POSITIONS = 7
"""Height and width of the feature maps before the first fully connected layer, for images of 224x224."""


class ConvStack(nn.Module):
    """Convolutions, each followed by a normalization (if any) and a ReLU. `[N, H, W, C] -> [N, H, W, width]`.

    `kernels` contains one kernel size for each convolution. Each convolution has `width` output channels. `conv` and
    `norm` are constructors of layers. Layers are named `conv{number}_{layer}` and `norm{number}_{layer}`, where
    `number` counts the stacks from 1, and `layer` counts the convolutions of a stack from 1.
    """

    number: int
    kernels: tuple[int, ...]
    width: int
    conv: Any
    norm: Norm | None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        for layer, kernel in enumerate(self.kernels, start=1):
            x = self.conv(self.width, kernel, padding=kernel // 2, name=f"conv{self.number}_{layer}")(x)
            norm = self.norm and self.norm(name=f"norm{self.number}_{layer}")
            x = relu(x) if norm is None else norm_relu(norm, x, train)
        return x


class VGG(StagedClassifier, kw_only=True):
    """Five stacks of 3x3 convolutions, each followed by max pooling, and three fully connected layers (table 1).

    `[N, 224, 224, C] -> [N, num_classes]`. Any image size of at least 32 works. The first fully connected layer has
    inputs for every position of the last feature maps, such as 7x7 for images of 224x224. Therefore, the weights of
    this layer fit one image size only. If `adaptive` is true, weights for 224x224 work at every image size. Kernels are
    initialized with He's variance. With the paper's standard deviation of 0.01, deep networks train only if their first
    layers come from a trained shallow network.

    `StagedClassifier` describes the other fields. The stage numbers in `remat` are the numbers of stacks, from 1.

    Fields:
      column: kernel sizes of each stack: a column of table 1.
      widths: output channels of each stack.
      adaptive: whether to average the last feature maps to 7x7 positions, as torchvision does.
      hidden, dropout_rate: width and dropout rate of the two hidden fully connected layers (section 3.1).
      stem: "cifar" replaces the last pooling and the hidden layers by global average pooling. The hidden layers contain
        most of the parameters.
      norm: constructor of the normalization after each convolution. None, as in the paper, uses no normalization.

    Raises:
      UsageError: the weights of the first fully connected layer do not fit the size of the images.
    """

    column: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...] = WIDTHS
    adaptive: bool = False
    hidden: int = 4096
    dropout_rate: float = 0.5
    norm: Norm | None = None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages=range(1, len(self.column) + 1))
        conv = Partial(Conv, kernel_init=initializers.he_normal, **self.policy)
        dense = Partial(Dense, kernel_init=initializers.he_normal, **self.policy)
        norm = self.norm and Partial(self.norm, **self.policy)

        for number, (kernels, width) in enumerate(zip(self.column, self.widths, strict=True), start=1):
            stack = ConvStack(number, kernels, width, conv, norm)
            nn.share_scope(self, stack)  # parameters are named "conv1_1", without the name of the stack
            x = apply_block(stack, x, train, number, remat, materialize=False)
            if self.stem == "imagenet" or number < len(self.column):
                x = MaxPool(2, name=f"pool{number}")(x)

        if self.stem == "cifar":
            return self.logits(GlobalAvgPool()(x))
        x = self.flatten(x, "fc6", POSITIONS if self.adaptive else None)
        x = Dropout(self.dropout_rate)(relu(dense(self.hidden, name="fc6")(x)), train)
        x = Dropout(self.dropout_rate)(relu(dense(self.hidden, name="fc7")(x)), train)
        return self.logits(x)


MODELS = {
    "vgg11": partial(VGG, column=COLUMN_A),
    "vgg13": partial(VGG, column=COLUMN_B),
    "vgg16": partial(VGG, column=COLUMN_D),
    "vgg16_c": partial(VGG, column=COLUMN_C),
    "vgg19": partial(VGG, column=COLUMN_E),
    "vgg11_bn": partial(VGG, column=COLUMN_A, norm=BatchNorm),
    "vgg13_bn": partial(VGG, column=COLUMN_B, norm=BatchNorm),
    "vgg16_bn": partial(VGG, column=COLUMN_D, norm=BatchNorm),
    "vgg19_bn": partial(VGG, column=COLUMN_E, norm=BatchNorm),
}
