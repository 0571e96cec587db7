"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.layers import AvgPool, Conv, Dense, Flatten, MaxPool, Sequential, Tanh, initializers

# Table I: which maps of S2 (rows) each of the 16 maps of C3 sees.
C3_TABLE = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""

# Section II-B sets the output units' weights to pictures of the characters, 7 wide and 12 high. These are drawn in
# the manner of its figure 3; one hexadecimal number a row, the leftmost pixel in its bit 6.
DIGITS = (
    "1c 22 41 41 41 41 41 41 41 22 1c 00",
    "08 18 28 08 08 08 08 08 08 08 3e 00",
    "3e 41 01 01 02 04 08 10 20 40 7f 00",
    "3e 41 01 01 01 1e 01 01 01 41 3e 00",
    "02 06 0a 12 22 42 7f 02 02 02 02 00",
    "7f 40 40 40 7e 01 01 01 01 41 3e 00",
    "1e 20 40 40 5e 61 41 41 41 41 3e 00",
    "7f 01 02 02 04 04 08 08 10 10 10 00",
    "3e 41 41 41 41 3e 41 41 41 41 3e 00",
    "3e 41 41 41 41 43 3d 01 01 02 3c 00",
)


class LeNet5(nn.Module):
    """LeNet-5 as it is usually written today: figure 2 of the paper, with a dense C3 and parameter-free pooling.

    `[N, 28, 28, C] -> [N, num_classes]`. The paper's 28x28 digits stand in a field of 32x32, which `padding` does
    here; give `padding=0` for images that are 32x32 themselves. 61,706 parameters at 28x28x1 and 10 classes.

    Fields:
      num_classes: number of logits.
      activation: the nonlinearity behind every layer but the last.
      pool: the pooling layer behind C1 and C3.
      padding: rows of zeros around the image.
      dtype, param_dtype: of the computation and of the parameters; logits are float32 always.
    """

    num_classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: Callable[..., nn.Module] = MaxPool
    padding: int = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that with their padding make the paper's 32x32."""
        return (32 - 2 * self.padding, 32 - 2 * self.padding, 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Sequential(
            [
                Conv(6, 5, padding=self.padding, **policy, name="C1"),  # 6 maps of 28x28
                self.activation,
                self.pool(2),  # S2: 6 of 14x14
                Conv(16, 5, **policy, name="C3"),  # 16 of 10x10
                self.activation,
                self.pool(2),  # S4: 16 of 5x5
                Flatten(),
                Dense(120, **policy, name="C5"),
                self.activation,
                Dense(84, **policy, name="F6"),
                self.activation,
                Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head"),
            ]
        )(x)


def uniform_by_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform on +-2.4 / fan_in (appendix A), for kernels `[..., C_in, C_out]`."""
    fan_in = np.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)


class Subsampling(nn.Module):
    """`coefficient * (the sum of each 2x2 window) + bias`, one of each a map (section II-B, layers S2 and S4)."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # 1 / 4 makes it the average at first; the paper does not say where it starts.
        coefficient = self.param("coefficient", initializers.constant(0.25), x.shape[-1:], self.param_dtype)
        bias = self.param("bias", initializers.zeros, x.shape[-1:], self.param_dtype)
        x = x if self.dtype is None else x.astype(self.dtype)
        return 4 * AvgPool(2)(x) * coefficient.astype(x.dtype) + bias.astype(x.dtype)


class SparseConv(nn.Module):
    """A 5x5 convolution in which each output map sees some of the input's maps only (layer C3).

    The connections are pairs of an input and an output map, of which `table` has a row and a column each. The
    parameters are `kernel` `[5, 5, connections]` and `bias` `[features]`.
    """

    table: str
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        connected = np.array([[mark == "X" for mark in row] for row in self.table.split()])
        inputs, outputs = np.nonzero(connected)
        fan_in = 25 * connected.sum(0)[outputs]

        def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.asarray(2.4 / fan_in, dtype)

        connections = self.param("kernel", initialize, (5, 5, len(inputs)), self.param_dtype)
        kernel = jnp.zeros((5, 5, *connected.shape), self.param_dtype).at[:, :, inputs, outputs].set(connections)
        convolution = Conv(connected.shape[1], 5, use_bias=False, dtype=self.dtype, parent=None)
        bias = self.param("bias", initializers.zeros, connected.shape[1:], self.param_dtype)
        y: Any = convolution.apply({"params": {"kernel": kernel}}, x)
        return y + bias.astype(y.dtype)


class LeNet5Of1998(nn.Module):
    """LeNet-5 exactly as in section II-B: sparse C3, trainable subsampling, scaled tanh, and an RBF output.

    `[N, 28, 28, 1] -> [N, 10]`, 60,000 parameters. An output unit measures the squared distance between F6 and a
    fixed picture of its character; a logit is that distance's negative, with which the softmax cross-entropy is the
    paper's discriminative loss (equation 9) without its rubbish class.

    Raises:
      UsageError: more classes than there are pictures.
    """

    num_classes: int = 10
    padding: int = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images that with their padding make the paper's 32x32."""
        return (32 - 2 * self.padding, 32 - 2 * self.padding, 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.num_classes > len(DIGITS):
            raise UsageError(f"lenet5_1998 has pictures of {len(DIGITS)} classes, got num_classes={self.num_classes}")
        policy = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=uniform_by_fan_in, **policy)
        squash = Tanh(scale=1.7159, slope=2 / 3)

        x = squash(conv(6, 5, padding=self.padding, name="C1")(x))
        x = squash(Subsampling(**policy, name="S2")(x))
        x = squash(SparseConv(C3_TABLE, **policy, name="C3")(x))
        x = squash(Subsampling(**policy, name="S4")(x))
        x = squash(conv(120, 5, name="C5")(x))  # a convolution, which here has one position left: 1x1
        x = Flatten()(x)
        x = squash(Dense(84, kernel_init=uniform_by_fan_in, **policy, name="F6")(x))
        return RBF(self.num_classes, name="head")(x)


class RBF(nn.Module):
    """`-sum_j (x_j - w_ij)^2` (equation 7) from fixed pictures `w_i` of -1 and +1. `[N, 84] -> [N, classes]`."""

    num_classes: int

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = np.array([[int(row, 16) for row in digit.split()] for digit in DIGITS[: self.num_classes]])
        pictures = (rows[:, :, None] >> np.arange(6, -1, -1)) % 2 * 2.0 - 1.0  # [classes, 12, 7]
        if x.shape[-1] != pictures[0].size:
            raise UsageError(f"the RBF output needs {pictures[0].size} features, got {x.shape[-1]}")
        x = x.astype(jnp.float32)
        return -jnp.square(x[:, None] - pictures.reshape(len(pictures), -1).astype(np.float32)).sum(-1)


MODELS = {"lenet5": LeNet5, "lenet5_1998": LeNet5Of1998}
