"""GoogLeNet (Szegedy, Liu, Jia, Sermanet, Reed, Anguelov et al.: Going Deeper with Convolutions, 2014)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.core import FrozenDict

from jaxcnn import layers
from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import Concat, Conv, Dense, Dropout, MaxPool, Partial, Sequential, initializers, norm_relu, relu
from jaxcnn.layers._window import Size, pair
from jaxcnn.models._classifier import Classifier, Norm, StagedClassifier
from jaxcnn.models._stages import apply_block

# Table 1: output channels of the 1x1 convolution, of the 3x3 reduction and convolution, of the 5x5 reduction and
# convolution, and of the convolution after the pooling.
INCEPTION = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
AUXILIARY_HEADS = {"4a": "aux1", "4d": "aux2"}


class ConvUnit(nn.Module):
    """A convolution, a normalization (if any), and a ReLU. `[N, H, W, C] -> [N, H / strides, W / strides, features]`.

    With `padding=None`, the output has the height and width of the input at stride 1.
    """

    features: int
    kernel_size: Size
    conv: Callable[..., Any]
    norm: Norm | None
    strides: int = 1
    padding: int | None = None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        height, width = pair(self.kernel_size, "kernel_size")
        padding = (height // 2, width // 2) if self.padding is None else self.padding
        x = self.conv(self.features, self.kernel_size, self.strides, padding=padding, name="conv")(x)
        return relu(x) if self.norm is None else norm_relu(self.norm(name="norm"), x, train)


class Inception(nn.Module):
    """Parallel convolutions of several sizes, after 1x1 convolutions that reduce the channels (figure 2b).

    `[N, H, W, C] -> [N, H, W, n1 + n3 + n5 + pooled]`, where n1, n3, n5 and pooled are the output channels of the four
    branches. If `naive` is true, the module (figure 2a) has no reductions, and its pooling keeps all C channels. `row`
    is a row of table 1. `unit` is the constructor of a `ConvUnit`. `largest` is the size of the largest kernel; the
    paper uses 5.
    """

    row: tuple[int, tuple[int, int], tuple[int, int], int]
    unit: Callable[..., Any]
    naive: bool = False
    largest: int = 5

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        n1, (reduce3, n3), (reduce5, n5), pooled = self.row
        branch1, branch3 = self.unit(n1, 1, name="branch1"), self.unit(n3, 3, name="branch3")
        branch5, pool = self.unit(n5, self.largest, name="branch5"), MaxPool(3, 1, padding=1)
        if not self.naive:
            branch3 = Sequential([self.unit(reduce3, 1, name="branch3_reduce"), branch3])
            branch5 = Sequential([self.unit(reduce5, 1, name="branch5_reduce"), branch5])
            pool = Sequential([pool, self.unit(pooled, 1, name="branch_pool")])
        return Concat([branch1, branch3, branch5, pool])(x, train)


class AuxiliaryHead(Classifier, kw_only=True):
    """A small classifier of intermediate features (section 5), which sows its `logits` in the collection `aux_logits`.

    `[N, H, W, C] -> [N, num_classes]`. `unit` is the constructor of a `ConvUnit`. `pool` is the constructor of the
    first layer, a pooling.
    """

    unit: Callable[..., Any]
    pool: Callable[..., Any]
    dropout_rate: float

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        x = self.unit(128, 1, name="reduce")(self.pool()(x), train)
        x = relu(Dense(1024, kernel_init=initializers.he_normal, **self.policy, name="fc")(layers.Flatten()(x)))
        return sow_logits(self, self.logits(Dropout(self.dropout_rate)(x, train)))


def sow_logits(head: Classifier, logits: jax.Array) -> jax.Array:
    """Sow the logits of an auxiliary head in the collection `aux_logits`, and return these logits."""
    if not head.is_initializing():
        # Keep the logits themselves: by default, `sow` appends the values of all calls to a tuple.
        head.sow("aux_logits", "logits", logits, init_fn=lambda: logits, reduce_fn=lambda _, new: new)
    return logits


class GoogLeNet(StagedClassifier, kw_only=True):
    """Nine Inception modules after a convolutional stem (table 1), and two auxiliary classifiers in training.

    `[N, 224, 224, C] -> [N, num_classes]`. The default fields give the network of the paper. The auxiliary heads follow
    modules 4a and 4d and sow `aux1/logits` and `aux2/logits` in the collection `aux_logits`. The paper adds the loss of
    each auxiliary head, multiplied by 0.3, to the loss. Auxiliary heads exist in training only: `init` creates their
    parameters if `train=True`, and training skips heads without parameters.

    `StagedClassifier` describes the other fields. The stage numbers in `remat` are 3, 4 and 5, as in table 1.

    Fields:
      modules: dict from the name of each Inception module, such as "3a", to its row of table 1.
      naive, largest: fields of each `Inception` module: whether the module is naive, and the size of its largest
        kernel.
      norm: constructor of the normalization after each convolution. The normalization replaces the bias. None, as in
        the paper, uses no normalization.
      response_norm: constructor of the normalization after `pool1` and after `conv2`, or None for no normalization.
      last_pool: window size of the max pooling before module 5a.
      stem: "cifar" uses one 3x3 convolution at full size as the stem.
      aux_heads: whether the model has auxiliary heads.
      aux_pool: constructor of the pooling before the auxiliary heads. This pooling must return 4x4 positions for images
        of 224x224.
      dropout_rate, aux_dropout_rate: dropout rates before the logits of the model and of the auxiliary heads.
    """

    modules: Mapping[str, Any] = FrozenDict(INCEPTION)
    naive: bool = False
    norm: Norm | None = None
    response_norm: Callable[[], Any] | None = layers.LocalResponseNorm
    largest: int = 5
    last_pool: int = 3
    aux_heads: bool = True
    aux_pool: Callable[..., Any] = Partial(layers.AvgPool, 5, 3)
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7

    def __post_init__(self) -> None:
        self.modules = FrozenDict(self.modules)  # hashable
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        remat = self.recomputation(x, train, stages={int(name[0]) for name in self.modules})
        conv = Partial(Conv, use_bias=self.norm is None, kernel_init=initializers.he_normal, **self.policy)
        unit = Partial(ConvUnit, conv=conv, norm=self.norm and Partial(self.norm, **self.policy))

        if self.stem == "imagenet":
            x = unit(64, 7, strides=2, name="conv1")(x, train)
            x = MaxPool(3, 2, ceil_mode=True, name="pool1")(x)
            x = self.response_norm()(x) if self.response_norm else x
            x = unit(64, 1, name="conv2_reduce")(x, train)
            x = unit(192, 3, name="conv2")(x, train)
            x = MaxPool(3, 2, ceil_mode=True, name="pool2")(self.response_norm()(x) if self.response_norm else x)
        else:
            x = unit(192, 3, name="conv1")(x, train)

        for name, row in self.modules.items():
            if name == "4a":
                x = MaxPool(3, 2, ceil_mode=True, name="pool3")(x)
            if name == "5a":
                x = MaxPool(self.last_pool, 2, ceil_mode=True, name="pool4")(x)
            module = Inception(row, unit, self.naive, self.largest, name=f"inception{name}")
            x = apply_block(module, x, train, int(name[0]), remat, materialize=False)
            head = AUXILIARY_HEADS.get(name)
            if head and train and self.aux_heads and (self.is_initializing() or self.has_variable("params", head)):
                fields = {"num_classes": self.num_classes, "dropout_rate": self.aux_dropout_rate, **self.policy}
                AuxiliaryHead(unit=unit, pool=self.aux_pool, **fields, name=head)(x, train)

        return self.logits(Dropout(self.dropout_rate)(layers.GlobalAvgPool()(x), train))


MODELS = {
    "googlenet": GoogLeNet,
    "googlenet_naive": partial(GoogLeNet, naive=True),
    # torchvision's variant, for which weights are published, uses BN, 3x3 kernels in place of 5x5 kernels, and no
    # response normalization.
    "googlenet_bn": partial(
        GoogLeNet,
        norm=Partial(layers.BatchNorm, epsilon=1e-3),
        response_norm=None,
        largest=3,
        last_pool=2,
        aux_pool=Partial(layers.AdaptiveAvgPool, 4),
        dropout_rate=0.2,
    ),
}
