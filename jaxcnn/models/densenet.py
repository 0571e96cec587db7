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
    """Compute `growth_rate` feature maps by BN, ReLU and convolution, and append them to the input (equation 2).

    `[N, H, W, C] -> [N, H, W, C + growth_rate]`. If the input is a tuple of feature maps, the output is this tuple with
    the new feature maps as the last element.

    If `bottleneck` is true, BN, ReLU and a 1x1 convolution to `4 * growth_rate` feature maps come first (DenseNet-B).
    Dropout follows the last convolution. `conv` and `norm` are constructors of layers.
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
        """Return the output of the first BN, ReLU and convolution; `x` is feature maps, or a tuple of feature maps."""
        x = jnp.concatenate(x, axis=-1) if isinstance(x, tuple) else x
        x = norm_relu(self.norm(name="norm1"), x, train)
        if self.bottleneck:
            return self.conv(4 * self.growth_rate, 1, name="conv1")(x)
        return self.conv(self.growth_rate, 3, padding=1, name="conv1")(x)


# Source: Pleiss, Chen, Huang, Li, van der Maaten, Weinberger: Memory-Efficient Implementation of DenseNets, 2017.
MemoryEfficientDenseLayer = recompute_method(DenseLayer, "first_convolution")


class Transition(nn.Module):
    """BN, ReLU, 1x1 convolution and 2x2 average pooling between blocks. `[N, H, W, C] -> [N, H/2, W/2, features]`."""

    features: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        x = norm_relu(self.norm(name="norm"), x, train)
        return AvgPool(2, name="pool")(self.conv(self.features, 1, name="conv")(x))


class DenseNet(StagedClassifier, kw_only=True):
    """Dense blocks with transitions between them. `[N, H, W, C] -> [N, num_classes]`.

    Each layer of a dense block gets the feature maps of all earlier layers of the block. `StagedClassifier` describes
    the other fields. The stage numbers in `remat` are the numbers of dense blocks, from 1.

    Fields:
      block_sizes: number of layers in each dense block.
      growth_rate: number of feature maps that each layer adds (k in the paper).
      stem_width: number of feature maps before the first dense block.
      bottleneck: whether a 1x1 convolution precedes each 3x3 convolution (DenseNet-B).
      compression: number of output channels of a transition, as a fraction of its input channels, in (0, 1]
        (DenseNet-C).
      dropout_rate: rate of the dropout at the end of each layer. The paper uses a rate of 0.2 for data without
        augmentation.
      memory_efficient: whether to recompute the concatenation, the first normalization and the first convolution of
        each layer in the backward pass (Pleiss et al., 2017). The memory for a block of L layers is then proportional
        to L, and not to L^2.

    Raises:
      UsageError: `compression` is not in (0, 1].
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


# Section 3, for 32x32 images: the plain network, and DenseNet-BC, whose stem has 2 k channels for the growth rate k.
cifar = partial(DenseNet, stem_width=16, num_classes=10, bottleneck=False, compression=1.0, stem="cifar")
cifar_bc = partial(DenseNet, num_classes=10, stem="cifar")

# The networks for ImageNet are in table 1, and the networks for small images are in table 2. The authors published
# DenseNet-161 with their code.
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
