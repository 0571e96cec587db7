"""GoogLeNet (Szegedy, Liu, Jia, Sermanet, Reed, Anguelov et al.: Going Deeper with Convolutions, 2014)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.core import FrozenDict

from jaxcnn.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LocalResponseNorm,
    MaxPool,
    Partial,
    Sequential,
    initializers,
    relu,
)
from jaxcnn.models._classifier import Classifier, Norm, StagedClassifier
from jaxcnn.models._stages import apply_block

# Table 1: channels of the 1x1, of the 3x3's reduction and the 3x3, of the 5x5's reduction and the 5x5, and of the
# projection behind the pooling.
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


class ConvUnit(nn.Module):
    """A convolution, a normalization (if any), and a ReLU. `[N, H, W, C] -> [N, H/s, W/s, features]`."""

    features: int
    kernel_size: int
    conv: Callable[..., Any]
    norm: Norm | None
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv(self.features, self.kernel_size, self.strides, padding=self.kernel_size // 2, name="conv")(x)
        return relu(x if self.norm is None else self.norm(name="norm")(x, train))


class Inception(nn.Module):
    """Convolutions of several sizes in parallel, behind 1x1 reductions of their input (figure 2b).

    `[N, H, W, C] -> [N, H, W, n1 + n3 + n5 + pooled]`. The naive module (figure 2a) has no reductions and no projection
    behind the pooling, which keeps all C channels.

    Fields:
      row: a row of table 1.
      unit: constructor of a convolution with its normalization and ReLU.
      naive: whether to omit the 1x1 reductions.
      largest: size of the largest kernel, 5 in the paper.
    """

    row: tuple[int, tuple[int, int], tuple[int, int], int]
    unit: Callable[..., Any]
    naive: bool = False
    largest: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        n1, (reduce3, n3), (reduce5, n5), pooled = self.row
        pool = MaxPool(3, 1, padding=1)
        branch1 = self.unit(n1, 1, name="branch1")
        branch3, branch5 = self.unit(n3, 3, name="branch3"), self.unit(n5, self.largest, name="branch5")
        if self.naive:
            branches = [branch1, branch3, branch5, pool]
        else:
            branches = [
                branch1,
                Sequential([self.unit(reduce3, 1, name="branch3_reduce"), branch3]),
                Sequential([self.unit(reduce5, 1, name="branch5_reduce"), branch5]),
                Sequential([pool, self.unit(pooled, 1, name="branch_pool")]),
            ]
        return Concat(branches)(x, train)


class AuxiliaryHead(Classifier, kw_only=True):
    """A small classifier of intermediate features (section 5), which sows its `logits` in the collection `aux_logits`.

    `[N, H, W, C] -> [N, num_classes]`.

    Fields:
      unit: constructor of a convolution with its normalization and ReLU.
      pool: constructor of the first layer.
      dropout_rate: dropout rate in front of the logits.
    """

    unit: Callable[..., Any]
    pool: Callable[..., Any]
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.unit(128, 1, name="reduce")(self.pool()(x), train)
        x = relu(Dense(1024, kernel_init=initializers.he_normal, **self.policy, name="fc")(Flatten()(x)))
        logits = self.logits(Dropout(self.dropout_rate)(x, train))
        if not self.is_initializing():
            # By default `sow` collects a tuple of the values of all calls.
            self.sow("aux_logits", "logits", logits, init_fn=lambda: logits, reduce_fn=lambda _, new: new)
        return logits


class GoogLeNet(StagedClassifier, kw_only=True):
    """Nine Inception modules behind a convolutional stem (table 1), and two auxiliary classifiers in training.

    `[N, 224, 224, C] -> [N, num_classes]`. The defaults are the paper's.

    The auxiliary heads follow modules 4a and 4d and sow `aux1/logits` and `aux2/logits` in the collection `aux_logits`.
    The paper adds 0.3 of each one's loss. They exist in training only: `init` creates their parameters only with
    `train=True`, and they are skipped in training if their parameters are missing.

    Fields:
      modules: the rows of table 1, by name.
      naive: whether the modules are the naive ones.
      norm: normalization behind each convolution, in place of its bias; None, as in the paper, for none.
      response_norm: constructor of the normalization behind `pool1` and behind `conv2`; None for none.
      largest: size of the largest kernel in a module.
      last_pool: window of the pooling in front of module 5a.
      stem: "cifar" is one 3x3 convolution at full size.
      aux_heads: whether there are auxiliary heads.
      aux_pool: constructor of the pooling in front of them, which must return 4x4 for images of 224x224.
      dropout_rate: dropout rate in front of the logits.
      aux_dropout_rate: dropout rate in the auxiliary heads.

    `StagedClassifier` documents the other fields. The stages of `remat` are 3, 4 and 5, as in table 1.
    """

    modules: Mapping[str, Any] = FrozenDict(INCEPTION)
    naive: bool = False
    norm: Norm | None = None
    response_norm: Callable[[], Any] | None = LocalResponseNorm
    largest: int = 5
    last_pool: int = 3
    aux_heads: bool = True
    aux_pool: Callable[..., Any] = Partial(AvgPool, 5, 3)
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7

    def __post_init__(self) -> None:
        self.modules = FrozenDict(self.modules)  # hashable
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        self.check_fields(stages={int(name[0]) for name in self.modules})
        conv = Partial(Conv, use_bias=self.norm is None, kernel_init=initializers.he_normal, **self.policy)
        unit = Partial(ConvUnit, conv=conv, norm=self.norm and Partial(self.norm, **self.policy))

        if self.stem == "imagenet":
            x = unit(64, 7, strides=2, name="conv1")(x, train)
            x = MaxPool(3, 2, ceil_mode=True, name="pool1")(x)
            x = self.response_norm()(x) if self.response_norm else x
            x = unit(64, 1, name="conv2_reduce")(x, train)
            x = unit(192, 3, name="conv2")(x, train)
            x = self.response_norm()(x) if self.response_norm else x
            x = MaxPool(3, 2, ceil_mode=True, name="pool2")(x)
        else:
            x = unit(192, 3, name="conv1")(x, train)

        for name, row in self.modules.items():
            if name == "4a":
                x = MaxPool(3, 2, ceil_mode=True, name="pool3")(x)
            if name == "5a":
                x = MaxPool(self.last_pool, 2, ceil_mode=True, name="pool4")(x)
            module = Inception(row, unit, self.naive, self.largest, name=f"inception{name}")
            x = apply_block(module, x, train, stage=int(name[0]), remat=self.remat, materialize=False)
            if name == "4a":
                self.classify_early(x, unit, train, name="aux1")
            if name == "4d":
                self.classify_early(x, unit, train, name="aux2")

        return self.logits(Dropout(self.dropout_rate)(GlobalAvgPool()(x), train))

    @nn.nowrap
    def classify_early(self, x: jax.Array, unit: Callable[..., Any], train: bool, name: str) -> None:
        """Apply an auxiliary head in training, if it has parameters or is to get some."""
        if train and self.aux_heads and (self.is_initializing() or self.has_variable("params", name)):
            AuxiliaryHead(
                num_classes=self.num_classes,
                unit=unit,
                pool=self.aux_pool,
                dropout_rate=self.aux_dropout_rate,
                **self.policy,
                name=name,
            )(x, train)


MODELS = {
    "googlenet": GoogLeNet,
    "googlenet_naive": partial(GoogLeNet, naive=True),
    # torchvision's variant, to which published weights belong: BN, 3x3 in place of 5x5, no response normalization.
    "googlenet_bn": partial(
        GoogLeNet,
        norm=Partial(BatchNorm, epsilon=1e-3),
        response_norm=None,
        largest=3,
        last_pool=2,
        aux_pool=Partial(AdaptiveAvgPool, 4),
        dropout_rate=0.2,
    ),
}
