"""GoogLeNet (Szegedy, Liu, Jia, Sermanet, Reed, Anguelov et al.: Going Deeper with Convolutions, 2014)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
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
    Sequential,
    initializers,
)
from jaxcnn.models._stages import Remat, apply_block, check_stages, is_recomputed
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, check_stem

ModuleDef = Callable[..., Any]

# Table 1: maps of the 1x1, of the 3x3's reduction and the 3x3, of the 5x5's reduction and the 5x5, of the pooling's
# projection.
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
    """A convolution, a normalisation if there is one, and a ReLU. `[N, H, W, C] -> [N, H/s, W/s, features]`."""

    features: int
    kernel_size: int
    conv: ModuleDef
    norm: ModuleDef | None
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.features, self.kernel_size, self.strides, padding=self.kernel_size // 2, name="conv")(x)
        if self.norm is not None:
            x = self.norm(name="norm")(x, train=train)
        return nn.relu(x)


class Inception(nn.Module):
    """Filters of several sizes side by side (figure 2b), behind 1x1 convolutions that reduce the maps they see.

    `[N, H, W, C] -> [N, H, W, n1 + n3 + n5 + pooled]`. The naive module (figure 2a) has no reductions, and none
    behind its pooling, which passes on all C maps.

    Fields:
      row: a row of table 1.
      unit: constructor of a convolution with all that follows it.
      naive: whether to leave the 1x1 reductions out.
      largest: size of the largest kernel, 5 in the paper.
    """

    row: tuple[int, tuple[int, int], tuple[int, int], int]
    unit: ModuleDef
    naive: bool = False
    largest: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
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
        return Concat(branches)(x, train=train)


class AuxiliaryHead(nn.Module):
    """A small classifier on features half-way up (section 5), which sows its `logits` in the collection `aux_logits`.

    `[N, H, W, C] -> [N, num_classes]`.
    """

    num_classes: int
    unit: ModuleDef
    pool: ModuleDef
    dropout_rate: float
    policy: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.unit(128, 1, name="reduce")(self.pool()(x), train=train)
        x = Flatten()(x)
        x = nn.relu(Dense(1024, kernel_init=initializers.he_normal, **self.policy, name="fc")(x))
        x = Dropout(self.dropout_rate)(x, train=train)
        logits = Dense(self.num_classes, **{**self.policy, "dtype": jnp.float32}, name="head")(x)
        if not self.is_initializing():
            # The logits themselves, and not sow's tuple of those of all calls.
            self.sow("aux_logits", "logits", logits, init_fn=lambda: logits, reduce_fn=lambda _, new: new)
        return logits


class GoogLeNet(nn.Module):
    """Nine inception modules on a convolutional stem (table 1), and two auxiliary classifiers while training.

    `[N, 224, 224, C] -> [N, num_classes]`. The defaults are the paper's form. The auxiliary heads, behind modules 4a
    and 4d, sow their logits in the collection `aux_logits`, as `aux1/logits` and `aux2/logits`; the paper adds 0.3 of
    each one's loss. They exist in training alone: `init` makes their parameters with `train=True` only, and training
    without them is possible with parameters made with `train=False`.

    Fields:
      num_classes: number of logits.
      modules: the rows of table 1, by name.
      naive: whether the modules are the naive ones.
      norm: constructor of a normalisation behind each convolution, whose bias it replaces; None for none.
      response_norm: constructor of the normalisation behind the first pooling and before the second; None for none.
      largest: size of the largest kernel in a module.
      last_pool: window of the pooling before module 5a.
      stem: "imagenet", or "cifar", for 28x28 and 32x32: one 3x3 convolution at full size.
      aux_heads: whether there are auxiliary heads.
      aux_pool: constructor of the pooling in front of them, which must leave 4x4 at 224x224.
      remat: stages whose modules keep only their input and are computed again in the backward pass, which takes less
        memory and more time: True for all, or a tuple of numbers, 3, 4 and 5 as in table 1.
      dropout_rate, aux_dropout_rate: of the dropout before the classifier, and before those of the auxiliary heads.
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.
    """

    num_classes: int = 1000
    modules: Mapping[str, Any] = FrozenDict(INCEPTION)
    naive: bool = False
    norm: ModuleDef | None = None
    response_norm: ModuleDef | None = LocalResponseNorm
    largest: int = 5
    last_pool: int = 3
    stem: Kind = "imagenet"
    aux_heads: bool = True
    aux_pool: ModuleDef = partial(AvgPool, 5, 3)
    remat: Remat = False
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the paper has."""
        return IMAGE_SHAPES[self.stem]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_stem(self.stem)
        check_stages(self.remat, sorted({int(name[0]) for name in self.modules}))
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=self.norm is None, kernel_init=initializers.he_normal, **policy)
        unit = partial(ConvUnit, conv=conv, norm=self.norm and partial(self.norm, **policy))
        respond = self.response_norm or (lambda: lambda x: x)

        if self.stem == "imagenet":
            x = unit(64, 7, strides=2, name="conv1")(x, train=train)
            x = respond()(MaxPool(3, 2, ceil_mode=True, name="pool1")(x))
            x = unit(64, 1, name="conv2_reduce")(x, train=train)
            x = respond()(unit(192, 3, name="conv2")(x, train=train))
            x = MaxPool(3, 2, ceil_mode=True, name="pool2")(x)
        else:
            x = unit(192, 3, name="conv1")(x, train=train)

        for name, row in self.modules.items():
            if name == "4a":
                x = MaxPool(3, 2, ceil_mode=True, name="pool3")(x)
            if name == "5a":
                x = MaxPool(self.last_pool, 2, ceil_mode=True, name="pool4")(x)
            module = Inception(row, unit, self.naive, self.largest, name=f"inception{name}")
            x = apply_block(module, x, train=train, recompute=is_recomputed(self.remat, int(name[0])))
            if name in ("4a", "4d") and train and self.aux_heads:
                aux = "aux1" if name == "4a" else "aux2"
                if self.is_initializing() or self.has_variable("params", aux):
                    head = partial(AuxiliaryHead, self.num_classes, unit, self.aux_pool, self.aux_dropout_rate)
                    head(policy, name=aux)(x, train=True)

        x = Dropout(self.dropout_rate)(GlobalAvgPool()(x), train=train)
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


MODELS = {
    "googlenet": GoogLeNet,
    "googlenet_naive": partial(GoogLeNet, naive=True),
    # torchvision's form, which published weights have: BN, 3x3 in place of 5x5, no response normalisation.
    "googlenet_bn": partial(
        GoogLeNet,
        norm=partial(BatchNorm, epsilon=1e-3),
        response_norm=None,
        largest=3,
        last_pool=2,
        aux_pool=partial(AdaptiveAvgPool, 4),
        dropout_rate=0.2,
    ),
}
