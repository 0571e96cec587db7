"""Airbench (Jordan: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import GELU, BatchNorm, Conv, Dense, Flatten, MaxPool, Partial, initializers
from jaxcnn.models._classifier import Classifier, Norm, recomputation
from jaxcnn.models._stages import Remat, apply_block

# Section 3.2: BN has no scale, so that signals keep the magnitude that the identity kernels give them.
norm = Partial(BatchNorm, epsilon=1e-12, use_scale=False)
fast_norm = Partial(BatchNorm, momentum=0.6, epsilon=1e-12, use_scale=False)


class ConvBlock(nn.Module):
    """3x3 convolutions, with max pooling after the first convolution. `[N, H, W, C] -> [N, H // 2, W // 2, features]`.

    A normalization and a GELU follow each convolution.

    Fields:
      features: output channels of each convolution.
      depth: number of convolutions.
      residual: whether to add the output of the first GELU to the input of the last GELU.
      conv, norm: constructors of the convolutions and of the normalizations.
    """

    features: int
    depth: int
    residual: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        x = self.conv(self.features, 3, padding=1, name="conv1")(x)
        x = MaxPool(2, name="pool")(x)
        x = first = GELU()(self.norm(name="norm1")(x, train))
        for number in range(2, self.depth + 1):
            x = self.conv(self.features, 3, padding=1, name=f"conv{number}")(x)
            x = self.norm(name=f"norm{number}")(x, train)
            x = x + first if self.residual and number == self.depth else x
            x = GELU()(x)
        return x


class SpeedrunNet(Classifier, kw_only=True):
    """A whitening convolution, blocks of 3x3 convolutions, and max pooling over all remaining positions (section 3.1).

    `[N, 32, 32, C] -> [N, num_classes]`. Any image size of at least 9 works with three blocks.

    By default, `whiten/kernel` is initialized at random, as other kernels are. In the paper, `whiten/kernel` is a
    frozen whitening transformation of patches of the training images. To use the paper's kernel, train with
    `Config(whiten="whiten/kernel", freeze="whiten/kernel")`, or call `jaxcnn.data.whitening.whitening_kernel`. The
    whitening convolution has two output channels of opposite sign for each direction of a patch.

    `Classifier` describes the other fields.

    Fields:
      widths: output channels of each block.
      depth: convolutions in each block.
      residual: whether each block has a shortcut around all its convolutions except the first.
      patch: height and width of the kernels of the whitening convolution.
      logit_scale: factor by which the logits are multiplied (section 3.1).
      norm: constructor of the normalization after each convolution except the first; see `Norm`.
      remat: blocks to recompute in the backward pass: True for all blocks, a tuple of block numbers from 1, or a budget
        for the bytes of activations, such as "1GB".

    Raises:
      UsageError: `widths` is empty, `depth` is below 1, or `remat` contains a block that does not exist.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = (64, 256, 256)
    depth: int = 2
    residual: bool = False
    patch: int = 2
    logit_scale: float = 1 / 9
    norm: Norm = fast_norm
    remat: Remat = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images in the paper."""
        return (32, 32, 3)

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        if not self.widths or self.depth < 1:
            raise UsageError(
                f"speedrun needs at least one width and a depth >= 1, got widths={self.widths} and depth={self.depth}"
            )
        remat = recomputation(self, x, train, stages=range(1, len(self.widths) + 1))
        conv = Partial(Conv, use_bias=False, kernel_init=initializers.dirac, **self.policy)
        directions = 2 * self.patch**2 * x.shape[-1]
        whiten = Conv(directions, self.patch, kernel_init=initializers.torch_uniform, **self.policy, name="whiten")
        x = GELU()(whiten(x))
        for number, width in enumerate(self.widths, start=1):
            block = ConvBlock(
                width,
                self.depth,
                self.residual,
                conv,
                Partial(self.norm, **self.policy),
                name=f"block{number}",
            )
            x = apply_block(block, x, train, number, remat)
        x = Flatten()(MaxPool(x.shape[1:3], name="pool")(x))
        head = Dense(
            self.num_classes,
            use_bias=False,
            kernel_init=initializers.torch_uniform,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            name="head",
        )
        return self.logit_scale * head(x)


# Section 4. "speedrun96" follows the author's later code: the last GELU comes after the addition of the shortcut, and
# the running statistics have the usual momentum.
MODELS = {
    "speedrun": SpeedrunNet,
    "speedrun96": partial(SpeedrunNet, widths=(128, 512, 512), depth=3, residual=True, norm=norm),
}
