"""AlexNet (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, 2012)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.layers import Conv, Dense, Dropout, Flatten, LocalResponseNorm, MaxPool, initializers


class AlexNet(nn.Module):
    """Five convolutions, three of them pooled, and three fully connected layers (figure 2).

    `[N, 224, 224, C] -> [N, num_classes]`; any size of at least 63 will do (67 without padding), and gives the first
    fully connected layer as many inputs as positions are left (6x6 at the size above).

    The defaults are the one tower of *One weird trick for parallelizing convolutional neural networks* (Krizhevsky,
    2014), as torchvision has it. The paper's own two towers are convolutions in two groups: each of the two GPUs
    that it took at the time saw half of the maps.

    Fields:
      num_classes: number of logits.
      features: of each convolution.
      groups: of each convolution.
      padding: of the first convolution; the paper's images of 224 must be 227 for its sizes to come out, without.
      norm: what stands behind the first two ReLUs (section 3.3), None for nothing.
      hidden: width of the fully connected layers.
      dropout_rate: share of their units left out (section 4.2).
      dropout_at: whether dropout is at the fully connected layers' "inputs" (torchvision) or "outputs" (the paper).
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.
    """

    num_classes: int = 1000
    features: tuple[int, ...] = (64, 192, 384, 256, 256)
    groups: tuple[int, ...] = (1, 1, 1, 1, 1)
    padding: int = 2
    norm: Callable[[], nn.Module] | None = None
    hidden: int = 4096
    dropout_rate: float = 0.5
    dropout_at: Literal["inputs", "outputs"] = "inputs"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the paper has, larger where the first convolution does not pad."""
        return (224, 224, 3) if self.padding else (227, 227, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=initializers.he_normal, **policy)
        dense = partial(Dense, kernel_init=initializers.he_normal, **policy)
        norm = self.norm or (lambda: lambda x: x)
        drop = partial(Dropout(self.dropout_rate), train=train)
        before, after = (drop, lambda x: x) if self.dropout_at == "inputs" else (lambda x: x, drop)
        (c1, c2, c3, c4, c5), (g1, g2, g3, g4, g5) = self.features, self.groups

        x = conv(c1, 11, 4, padding=self.padding, feature_group_count=g1, name="conv1")(x)
        x = MaxPool(3, 2)(norm()(nn.relu(x)))
        x = conv(c2, 5, padding=2, feature_group_count=g2, name="conv2")(x)
        x = MaxPool(3, 2)(norm()(nn.relu(x)))
        x = nn.relu(conv(c3, 3, padding=1, feature_group_count=g3, name="conv3")(x))
        x = nn.relu(conv(c4, 3, padding=1, feature_group_count=g4, name="conv4")(x))
        x = nn.relu(conv(c5, 3, padding=1, feature_group_count=g5, name="conv5")(x))
        x = MaxPool(3, 2)(x)

        x = Flatten()(x)
        x = after(nn.relu(dense(self.hidden, name="fc6")(before(x))))
        x = after(nn.relu(dense(self.hidden, name="fc7")(before(x))))
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


MODELS = {
    "alexnet": AlexNet,
    "alexnet_two_tower": partial(
        AlexNet,
        features=(96, 256, 384, 384, 256),
        groups=(1, 2, 1, 2, 2),
        padding=0,
        norm=LocalResponseNorm,
        dropout_at="outputs",
    ),
}
