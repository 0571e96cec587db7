"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import AvgPool, Conv, Dense, Flatten, MaxPool, Partial, Sequential, Tanh, initializers, relu
from jaxcnn.models._classifier import Classifier

# Table I: the feature maps of S2 (rows) to which each of the 16 feature maps of C3 (columns) is connected.
C3_TABLE = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""

# Figure 3: the fixed weights of the output units (section II-B) are bitmaps of the characters, 7 wide and 12 high.
# Each hexadecimal number is one row of a bitmap, and bit 6 is the leftmost pixel.
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


class LeNet(Classifier, kw_only=True):
    """Base class of the two LeNet-5 networks, `LeNet5` and `LeNet5Of1998`.

    `padding` is the number of rows and columns of zeros on each side. The default extends images of 28x28 to the size
    of the paper, 32x32. Use `padding=0` for images of 32x32.
    """

    num_classes: int = 10
    padding: int = 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images before padding; padded images are 32x32."""
        return (32 - 2 * self.padding, 32 - 2 * self.padding, 1)


class LeNet5(LeNet, kw_only=True):
    """LeNet-5 in its usual version today: figure 2, with an ordinary convolution as C3, and pooling without parameters.

    `[N, 28, 28, C] -> [N, num_classes]`, with 61,706 parameters for images of 28x28x1 and 10 classes. `LeNet` and
    `Classifier` describe the other fields.

    Fields:
      activation: activation function after every layer except the last.
      pool: constructor of the pooling after C1 and C3.
    """

    activation: Callable[[jax.Array], jax.Array] = relu
    pool: Callable[..., Any] = MaxPool

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        layers = [
            Conv(6, 5, padding=self.padding, **self.policy, name="C1"),  # 6 feature maps of 28x28
            self.activation,
            self.pool(2),  # S2: 6 feature maps of 14x14
            Conv(16, 5, **self.policy, name="C3"),  # 16 feature maps of 10x10
            self.activation,
            self.pool(2),  # S4: 16 feature maps of 5x5
            Flatten(),
            Dense(120, **self.policy, name="C5"),
            self.activation,
            Dense(84, **self.policy, name="F6"),
            self.activation,
        ]
        return self.logits(Sequential(layers)(x))


def uniform_by_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a kernel `[..., C_in, C_out]` from the uniform distribution on `(-a, a)`.

    Appendix A sets `a = 2.4 / fan_in`.
    """
    fan_in = np.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)


class Subsampling(nn.Module):
    """`coefficient * (sum of each 2x2 window) + bias` for each channel (section II-B, layers S2 and S4).

    Each channel has its own coefficient and bias.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        # The paper gives no initial value. With 1 / 4 the layer starts as average pooling.
        coefficient = self.param("coefficient", initializers.constant(0.25), x.shape[-1:], self.param_dtype)
        bias = self.param("bias", initializers.zeros, x.shape[-1:], self.param_dtype)
        x = x if self.dtype is None else x.astype(self.dtype)
        return 4 * AvgPool(2)(x) * _per_channel(coefficient, x) + _per_channel(bias, x)


def _per_channel(parameter: jax.Array, x: jax.Array) -> jax.Array:
    """Return a parameter `[C]` as `[1, 1, 1, C]` in the dtype of `x`."""
    return parameter.astype(x.dtype)[None, None, None]


class SparseConv(nn.Module):
    """A 5x5 convolution in which each output channel is connected to some of the input channels (layer C3).

    `table` has a row for each input channel, a column for each output channel, and an X for each connection.
    Parameters: `kernel` `[5, 5, connections]` and `bias` `[features]`.
    """

    table: str
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        connected = np.array([[mark == "X" for mark in row] for row in self.table.split()])
        inputs, outputs = np.nonzero(connected)
        bound = 2.4 / (25 * connected.sum(0)[outputs])  # appendix A, for the fan-in of each connection's output

        def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -1, 1) * jnp.asarray(bound, dtype)[None, None]

        connections = self.param("kernel", initialize, (5, 5, len(inputs)), self.param_dtype)
        kernel = jnp.zeros((5, 5, *connected.shape), self.param_dtype).at[:, :, inputs, outputs].set(connections)
        convolution = Conv(connected.shape[1], 5, use_bias=False, dtype=self.dtype, parent=None)
        bias = self.param("bias", initializers.zeros, connected.shape[1:], self.param_dtype)
        y: Any = convolution.apply({"params": {"kernel": kernel}}, x)
        return y + _per_channel(bias, y)


class LeNet5Of1998(LeNet, kw_only=True):
    """LeNet-5 exactly as in section II-B: sparse C3, trainable subsampling, scaled tanh, and an RBF output.

    `[N, 28, 28, 1] -> [N, 10]`, with 60,000 parameters. A logit is the negative squared distance between the output of
    layer F6 and the fixed bitmap of a character. The softmax cross-entropy of these logits is the paper's
    discriminative loss (equation 9) without the paper's rubbish class. `LeNet` and `Classifier` describe the fields.

    Raises:
      UsageError: `num_classes` is larger than 10, the number of bitmaps.
    """

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n classes"]:
        if self.num_classes > len(DIGITS):
            raise UsageError(
                f"lenet5_1998 has bitmaps of {len(DIGITS)} classes, got num_classes={self.num_classes}. "
                f"Use at most {len(DIGITS)} classes."
            )
        conv = Partial(Conv, kernel_init=uniform_by_fan_in, **self.policy)
        squash = Tanh(scale=1.7159, slope=2 / 3)

        x = squash(conv(6, 5, padding=self.padding, name="C1")(x))
        x = squash(Subsampling(**self.policy, name="S2")(x))
        x = squash(SparseConv(C3_TABLE, **self.policy, name="C3")(x))
        x = squash(Subsampling(**self.policy, name="S4")(x))
        x = squash(conv(120, 5, name="C5")(x))  # a convolution with an output of 1x1
        x = squash(Dense(84, kernel_init=uniform_by_fan_in, **self.policy, name="F6")(Flatten()(x)))
        return RBF(self.num_classes, name="head")(x)


class RBF(nn.Module):
    """`-sum_j (x_j - w_ij)^2` (equation 7), with fixed bitmaps `w_i` of -1 and +1. `[N, 84] -> [N, classes]`.

    Raises:
      UsageError: the number of input features is not 84, the number of pixels of a bitmap.
    """

    num_classes: int

    def __call__(self, x: Shaped[InputArray, "n features"]) -> Float[Array, "n classes"]:
        rows = np.array([[int(row, 16) for row in digit.split()] for digit in DIGITS[: self.num_classes]])
        bitmaps = (rows[:, :, None] >> np.arange(6, -1, -1)) % 2 * 2 - 1  # [classes, 12, 7]
        bitmaps = bitmaps.reshape(1, len(rows), -1).astype(np.float32)
        if x.shape[-1] != bitmaps.shape[-1]:
            raise UsageError(f"the RBF layer needs {bitmaps.shape[-1]} input features, got {x.shape[-1]}")
        return -jnp.square(x.astype(jnp.float32)[:, None] - bitmaps).sum(-1)


MODELS = {"lenet5": LeNet5, "lenet5_1998": LeNet5Of1998}
