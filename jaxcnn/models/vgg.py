"""VGG (Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GlobalAvgPool, MaxPool, initializers
from jaxcnn.models._stages import Remat, apply_part, check_stages, is_recomputed
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, check_stem

# Table 1, column by column: before each of the five poolings, the kernel sizes; widths are the same in all columns.
COLUMN_A = ((3,), (3,), (3, 3), (3, 3), (3, 3))
COLUMN_B = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
COLUMN_C = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
COLUMN_D = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
COLUMN_E = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Stacks of 3x3 convolutions, each stack pooled, and three fully connected layers (table 1).

    `[N, 224, 224, C] -> [N, num_classes]`; any size of at least 32 will do, and gives the first fully connected
    layer as many inputs as positions are left (7x7 at the size above).

    Fields:
      column: the kernels of each stack.
      num_classes: number of logits.
      widths: features of each stack.
      stem: "cifar", for 28x28 and 32x32, averages over what the last stack leaves and classifies at once, in place
        of the last pooling and the hidden fully connected layers, which would be most of the parameters.
      hidden: width of the fully connected layers.
      dropout_rate: share of their units left out (section 3.1).
      remat: stacks that keep only their input and are computed again in the backward pass, which takes less memory and
        more time: True for all, or a tuple of numbers from 1.
      norm: constructor of a normalisation behind each convolution; None, as in the paper, for none.
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.
    """

    column: tuple[tuple[int, ...], ...]
    num_classes: int = 1000
    widths: tuple[int, ...] = WIDTHS
    stem: Kind = "imagenet"
    hidden: int = 4096
    dropout_rate: float = 0.5
    remat: Remat = False
    norm: Callable[..., nn.Module] | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that the paper has."""
        return IMAGE_SHAPES[self.stem]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_stem(self.stem)
        check_stages(self.remat, range(1, len(self.column) + 1))
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # A section's convolutions start from He's variance, with which, unlike with the paper's 0.01, the deep
        # columns train without being grown from shallow ones.
        conv = partial(Conv, kernel_init=initializers.he_normal, **policy)
        dense = partial(Dense, kernel_init=initializers.he_normal, **policy)

        for stack, (kernels, width) in enumerate(zip(self.column, self.widths, strict=True), start=1):

            def convolutions(
                net: VGG, x: jax.Array, *, train: bool, stack: int = stack, kernels: Any = kernels, width: int = width
            ) -> jax.Array:
                for layer, kernel in enumerate(kernels, start=1):
                    x = conv(width, kernel, padding=kernel // 2, name=f"conv{stack}_{layer}")(x)
                    if net.norm is not None:
                        x = net.norm(**policy, name=f"norm{stack}_{layer}")(x, train=train)
                    x = nn.relu(x)
                return x

            x = apply_part(convolutions, self, x, train=train, recompute=is_recomputed(self.remat, stack))
            if self.stem == "imagenet" or stack < len(self.column):
                x = MaxPool(2, name=f"pool{stack}")(x)

        if self.stem == "cifar":
            x = GlobalAvgPool()(x)
        else:
            x = Flatten()(x)
            x = Dropout(self.dropout_rate)(nn.relu(dense(self.hidden, name="fc6")(x)), train=train)
            x = Dropout(self.dropout_rate)(nn.relu(dense(self.hidden, name="fc7")(x)), train=train)
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


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
