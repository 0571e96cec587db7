"""DenseNet (Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, 2017)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import AvgPool, Conv, Dropout, GlobalAvgPool, Partial, initializers, norm_relu
from jaxcnn.models._classifier import StagedClassifier
from jaxcnn.models._stages import apply_block, recompute_method
from jaxcnn.models._stem import Stem


class DenseLayer(nn.Module):
    """BN-ReLU-conv with `growth_rate` new feature maps, which are concatenated to its input (equation 2).

    `[N, H, W, C] -> [N, H, W, C + growth_rate]`. Given a tuple of feature maps, return a longer tuple instead.

    With `bottleneck`, a BN-ReLU-conv of 1x1 with `4 * growth_rate` feature maps comes first (DenseNet-B). Dropout
    follows the last convolution. `conv` and `norm` are constructors.
    """

    growth_rate: int
    bottleneck: bool
    dropout_rate: float
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        y = self.first_convolution(x, train)
        if self.bottleneck:
            y = norm_relu(self.norm(name="norm2"), y, train)
            y = self.conv(self.growth_rate, 3, padding=1, name="conv2")(y)
        y = Dropout(self.dropout_rate)(y, train)
        return (*x, y) if isinstance(x, tuple) else jnp.concatenate([x, y], axis=-1)

    def first_convolution(self, x: Any, train: bool) -> jax.Array:
        """Return the output of the first BN-ReLU-conv for feature maps, or for a tuple of them."""
        x = jnp.concatenate(x, axis=-1) if isinstance(x, tuple) else x
        x = norm_relu(self.norm(name="norm1"), x, train)
        if self.bottleneck:
            return self.conv(4 * self.growth_rate, 1, name="conv1")(x)
        return self.conv(self.growth_rate, 3, padding=1, name="conv1")(x)


# Pleiss, Chen, Huang, Li, van der Maaten, Weinberger: Memory-Efficient Implementation of DenseNets, 2017.
MemoryEfficientDenseLayer = recompute_method(DenseLayer, "first_convolution")


class Transition(nn.Module):
    """BN-ReLU-conv of 1x1 and 2x2 average pooling between two blocks. `[N, H, W, C] -> [N, H/2, W/2, features]`."""

    features: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        x = norm_relu(self.norm(name="norm"), x, train)
        return AvgPool(2, name="pool")(self.conv(self.features, 1, name="conv")(x))


class DenseNet(StagedClassifier, kw_only=True):
    """Dense blocks, whose layers see all earlier feature maps, and transitions. `[N, H, W, C] -> [N, num_classes]`.

    Fields, besides those of `StagedClassifier`, whose `remat` takes the numbers of dense blocks:
      block_sizes: layers in each dense block.
      growth_rate: k, the number of feature maps that each layer adds.
      stem_width: feature maps in front of the first block.
      bottleneck: whether a 1x1 convolution precedes each 3x3 (DenseNet-B).
      compression: fraction of the feature maps that a transition keeps, in (0, 1] (DenseNet-C).
      dropout_rate: dropout rate behind each layer. The paper's is 0.2 for data without augmentation.
      memory_efficient: whether the concatenation, first normalization and first convolution of each layer are
        recomputed in the backward pass (Pleiss et al., 2017). Memory of a block of L layers then grows with L, not L^2.

    Raises:
      UsageError: a compression outside (0, 1].
    """

    block_sizes: tuple[int, ...]
    growth_rate: int
    stem_width: int
    bottleneck: bool = True
    compression: float = 0.5
    dropout_rate: float = 0.0
    memory_efficient: bool = False

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        if not 0.0 < self.compression <= 1.0:
            raise UsageError(f"DenseNet needs a compression in (0, 1], got {self.compression}")
        remat = self.recomputation(x, train, stages=range(1, len(self.block_sizes) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.he_normal, **self.policy)
        norm = Partial(self.norm, **self.policy)
        layer = MemoryEfficientDenseLayer if self.memory_efficient and train else DenseLayer
        layer = Partial(layer, self.growth_rate, self.bottleneck, self.dropout_rate, conv, norm)

        x = Stem(self.stem, self.stem_width, conv, norm if self.stem == "imagenet" else None, name="stem")(x, train)
        for block, layers in enumerate(self.block_sizes, start=1):
            maps: Any = (x,) if self.memory_efficient else x
            for index in range(1, layers + 1):
                module = layer(name=f"block{block}_layer{index}")
                maps = apply_block(module, maps, train, block, remat, materialize=not self.memory_efficient)
            x = jnp.concatenate(maps, axis=-1) if self.memory_efficient else maps
            if block < len(self.block_sizes):
                features = int(x.shape[-1] * self.compression)
                x = Transition(features, conv, norm, name=f"transition{block}")(x, train)
        x = norm_relu(norm(name="last_norm"), x, train)
        return self.logits(GlobalAvgPool()(x))


# Section 3, for 32x32 images: the plain network, and DenseNet-BC, whose stem has 2 k channels.
cifar = partial(DenseNet, stem_width=16, num_classes=10, bottleneck=False, compression=1.0, stem="cifar")
cifar_bc = partial(DenseNet, num_classes=10, stem="cifar")

# Table 1 for ImageNet, table 2 for small images. The authors published DenseNet-161 with their code.
MODELS = {
    "densenet121": partial(DenseNet, block_sizes=(6, 12, 24, 16), growth_rate=32, stem_width=64),
    "densenet161": partial(DenseNet, block_sizes=(6, 12, 36, 24), growth_rate=48, stem_width=96),
    "densenet169": partial(DenseNet, block_sizes=(6, 12, 32, 32), growth_rate=32, stem_width=64),
    "densenet201": partial(DenseNet, block_sizes=(6, 12, 48, 32), growth_rate=32, stem_width=64),
    "densenet40_k12": partial(cifar, block_sizes=(12, 12, 12), growth_rate=12),
    "densenet100_k12": partial(cifar, block_sizes=(32, 32, 32), growth_rate=12),
    "densenet100_k24": partial(cifar, block_sizes=(32, 32, 32), growth_rate=24),
    "densenet_bc100_k12": partial(cifar_bc, block_sizes=(16, 16, 16), growth_rate=12, stem_width=24),
    "densenet_bc250_k24": partial(cifar_bc, block_sizes=(41, 41, 41), growth_rate=24, stem_width=48),
    "densenet_bc190_k40": partial(cifar_bc, block_sizes=(31, 31, 31), growth_rate=40, stem_width=80),
}
