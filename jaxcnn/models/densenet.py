"""DenseNet (Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, 2017)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError
from jaxcnn.kernels import materialize
from jaxcnn.layers import AvgPool, BatchNorm, Conv, Dense, Dropout, GlobalAvgPool, initializers
from jaxcnn.models._stages import Remat, apply_block, apply_part, check_stages, is_recomputed
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, Stem

ModuleDef = Callable[..., Any]


class DenseLayer(nn.Module):
    """BN-ReLU-conv, whose `growth_rate` new maps are joined to the maps it sees (equation 2).

    `[N, H, W, C] -> [N, H, W, C + growth_rate]`. With a `bottleneck` (DenseNet-B), a BN-ReLU-conv of 1x1 makes
    `4 * growth_rate` maps first. With `memory_efficient` the maps come and go as a tuple of those of each layer, not
    joined; joining, the first normalisation, ReLU and convolution are computed again in the backward pass.
    """

    growth_rate: int
    bottleneck: bool
    dropout_rate: float
    conv: ModuleDef
    norm: ModuleDef
    memory_efficient: bool = False

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        maps = x if self.memory_efficient else materialize(x)
        y = apply_part(_first_convolution, self, maps, train=train, recompute=self.memory_efficient)
        if self.bottleneck:
            y = nn.relu(self.norm(name="norm2")(y, train=train))
            y = self.conv(self.growth_rate, 3, padding=1, name="conv2")(y)
        y = Dropout(self.dropout_rate)(y, train=train)
        return (*maps, y) if self.memory_efficient else jnp.concatenate([maps, y], axis=-1)


def _first_convolution(layer: DenseLayer, x: Any, *, train: bool) -> jax.Array:
    """Of a layer, all up to its first convolution, of the maps joined or of each layer's."""
    x = jnp.concatenate(x, axis=-1) if isinstance(x, tuple) else x
    y = nn.relu(layer.norm(name="norm1")(x, train=train))
    if layer.bottleneck:
        return layer.conv(4 * layer.growth_rate, 1, name="conv1")(y)
    return layer.conv(layer.growth_rate, 3, padding=1, name="conv1")(y)


class Transition(nn.Module):
    """BN-ReLU-conv of 1x1 and a 2x2 average pooling between two blocks. `[N, H, W, C] -> [N, H/2, W/2, features]`."""

    features: int
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(self.norm(name="norm")(x, train=train))
        return AvgPool(2, name="pool")(self.conv(self.features, 1, name="conv")(x))


class DenseNet(nn.Module):
    """Dense blocks, in which every layer sees the maps of all layers before it, with transitions between them.

    `[N, H, W, C] -> [N, num_classes]`.

    Fields:
      block_sizes: layers in each dense block.
      growth_rate: k, the maps that a layer adds.
      stem_width: maps before the first block.
      num_classes: number of logits.
      bottleneck: whether a 1x1 convolution stands before each 3x3 (B).
      compression: share of its maps that a transition keeps (C, in (0, 1]).
      stem: "imagenet" (7x7 at stride 2, BN, ReLU, max pooling) or "cifar" (one 3x3 at full size, nothing behind it).
      dropout_rate: of the dropout behind each layer; the paper's is 0.2 where images are not augmented.
      remat: stages whose layers keep only their input and are computed again in the backward pass, which takes less
        memory and more time: True for all, or a tuple of numbers from 1, those of the dense blocks.
      memory_efficient: whether each layer joins, normalises and first convolves the maps it sees again in the backward
        pass (Pleiss et al., Memory-Efficient Implementation of DenseNets, 2017): of a block of L layers, memory then
        grows with L and not with its square.
      norm: constructor of the normalisation, such as `partial(BatchNorm, axis_name=None)`.
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.

    Raises:
      UsageError: a compression outside (0, 1].
    """

    block_sizes: tuple[int, ...]
    growth_rate: int
    stem_width: int
    num_classes: int = 1000
    bottleneck: bool = True
    compression: float = 0.5
    stem: Kind = "imagenet"
    dropout_rate: float = 0.0
    remat: Remat = False
    memory_efficient: bool = False
    norm: ModuleDef = BatchNorm
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the paper has."""
        return IMAGE_SHAPES[self.stem]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not 0.0 < self.compression <= 1.0:
            raise UsageError(f"DenseNet needs a compression in (0, 1], got {self.compression}")
        check_stages(self.remat, range(1, len(self.block_sizes) + 1))
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **policy)
        norm = partial(self.norm, **policy)

        x = Stem(self.stem, self.stem_width, conv, norm if self.stem == "imagenet" else None, name="stem")(
            x, train=train
        )
        for block, layers in enumerate(self.block_sizes, start=1):
            maps: Any = (x,) if self.memory_efficient else x
            for layer in range(1, layers + 1):
                module = DenseLayer(
                    *(self.growth_rate, self.bottleneck, self.dropout_rate, conv, norm, self.memory_efficient),
                    name=f"block{block}_layer{layer}",
                )
                maps = apply_block(module, maps, train=train, recompute=is_recomputed(self.remat, block))
            x = jnp.concatenate(maps, axis=-1) if self.memory_efficient else maps
            if block < len(self.block_sizes):
                x = Transition(int(x.shape[-1] * self.compression), conv, norm, name=f"transition{block}")(
                    x, train=train
                )
        x = nn.relu(norm(name="last_norm")(x, train=train))
        x = GlobalAvgPool()(x)
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


def cifar(depth: int, growth_rate: int) -> Callable[..., nn.Module]:
    """The plain networks of section 3 for 32x32 images: three blocks, neither bottleneck nor compression."""
    return partial(
        DenseNet,
        block_sizes=((depth - 4) // 3,) * 3,
        growth_rate=growth_rate,
        stem_width=16,
        num_classes=10,
        bottleneck=False,
        compression=1.0,
        stem="cifar",
    )


def cifar_bc(depth: int, growth_rate: int) -> Callable[..., nn.Module]:
    """DenseNet-BC for 32x32 images: a layer is two convolutions, and the stem has 2 k maps."""
    return partial(
        DenseNet,
        block_sizes=((depth - 4) // 6,) * 3,
        growth_rate=growth_rate,
        stem_width=2 * growth_rate,
        num_classes=10,
        stem="cifar",
    )


# Table 1 for ImageNet, table 2 for the small images. DenseNet-161 is the authors' own, published with their code.
MODELS = {
    "densenet121": partial(DenseNet, block_sizes=(6, 12, 24, 16), growth_rate=32, stem_width=64),
    "densenet161": partial(DenseNet, block_sizes=(6, 12, 36, 24), growth_rate=48, stem_width=96),
    "densenet169": partial(DenseNet, block_sizes=(6, 12, 32, 32), growth_rate=32, stem_width=64),
    "densenet201": partial(DenseNet, block_sizes=(6, 12, 48, 32), growth_rate=32, stem_width=64),
    "densenet40_k12": cifar(40, 12),
    "densenet100_k12": cifar(100, 12),
    "densenet100_k24": cifar(100, 24),
    "densenet_bc100_k12": cifar_bc(100, 12),
    "densenet_bc250_k24": cifar_bc(250, 24),
    "densenet_bc190_k40": cifar_bc(190, 40),
}
