"""AlexNet (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, 2012)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import unknown_name
from jaxcnn.layers import Conv, Dense, Dropout, LocalResponseNorm, MaxPool, Partial, initializers, relu
from jaxcnn.models._classifier import Classifier

DropoutAt = Literal["inputs", "outputs"]

POSITIONS = 6
"""Height and width of the feature maps before the first fully connected layer, for images of the paper's size."""


class AlexNet(Classifier, kw_only=True):
    """Five convolutions, three of them followed by max pooling, and three fully connected layers (figure 2).

    `[N, 224, 224, C] -> [N, num_classes]`. Any image size of at least 63 works (67 without padding). The first fully
    connected layer has inputs for every position of the last feature maps, such as 6x6 for images of 224x224.
    Therefore, the weights of this layer fit one image size only. If `adaptive` is true, weights for 224x224 work at
    every image size. The default fields give the single tower of *One weird trick for parallelizing convolutional
    neural networks* (Krizhevsky, 2014), as in torchvision. In "alexnet_two_tower", the two towers of the paper, which
    ran on one GPU each, are convolutions in two groups. `Classifier` describes the other fields.

    Fields:
      features, groups: numbers of output channels, and numbers of groups, of the five convolutions.
      padding: padding of the first convolution. Without padding, images of 227x227 give feature maps of the paper's
        sizes.
      response_norm: constructor of the normalization after the first two ReLUs (section 3.3), or None for no
        normalization.
      adaptive: whether to average the last feature maps to 6x6 positions, as torchvision does.
      hidden, dropout_rate: width and dropout rate of the two hidden fully connected layers (section 4.2).
      dropout_at: where to apply dropout: to the "inputs" of the hidden layers (as in torchvision) or to their "outputs"
        (as in the paper).

    Raises:
      UsageError: `dropout_at` is unknown, or the weights of the first fully connected layer do not fit the size of the
        images.
    """

    features: tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: tuple[int, ...] = (1, 1, 1, 1, 1)
    padding: int = 2
    response_norm: Callable[[], Any] | None = None
    adaptive: bool = False
    hidden: int = 4096
    dropout_rate: float = 0.5
    dropout_at: DropoutAt = "inputs"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images: 224x224, or 227x227 if the first convolution has no padding."""
        return (224, 224, 3) if self.padding else (227, 227, 3)

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        if self.dropout_at not in get_args(DropoutAt):
            raise unknown_name("dropout_at", self.dropout_at, get_args(DropoutAt))
        conv = Partial(Conv, kernel_init=initializers.he_normal, **self.policy)
        dense = Partial(Dense, kernel_init=initializers.he_normal, **self.policy)
        drop = Dropout(self.dropout_rate)
        (c1, c2, c3, c4, c5), (g1, g2, g3, g4, g5) = self.features, self.groups

        x = relu(conv(c1, 11, 4, padding=self.padding, feature_group_count=g1, name="conv1")(x))
        x = MaxPool(3, 2)(self.response_norm()(x) if self.response_norm else x)
        x = relu(conv(c2, 5, padding=2, feature_group_count=g2, name="conv2")(x))
        x = MaxPool(3, 2)(self.response_norm()(x) if self.response_norm else x)
        x = relu(conv(c3, 3, padding=1, feature_group_count=g3, name="conv3")(x))
        x = relu(conv(c4, 3, padding=1, feature_group_count=g4, name="conv4")(x))
        x = relu(conv(c5, 3, padding=1, feature_group_count=g5, name="conv5")(x))
        x = self.flatten(MaxPool(3, 2)(x), "fc6", POSITIONS if self.adaptive else None)
        for name in ("fc6", "fc7"):
            x = drop(x, train) if self.dropout_at == "inputs" else x
            x = relu(dense(self.hidden, name=name)(x))
            x = drop(x, train) if self.dropout_at == "outputs" else x
        return self.logits(x)


MODELS = {
    "alexnet": AlexNet,
    "alexnet_two_tower": partial(
        AlexNet,
        features=(96, 256, 384, 384, 256),
        groups=(1, 2, 1, 2, 2),
        padding=0,
        response_norm=LocalResponseNorm,
        dropout_at="outputs",
    ),
}
