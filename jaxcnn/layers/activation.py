"""Activation functions. All except ReLU return float32 for integers."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels import elementwise
from jaxcnn.layers._dtypes import floating


def relu(x: Shaped[InputArray, "*shape"]) -> Shaped[Array, "*shape"]:
    """Return `max(0, x)`, of any shape and in the dtype of `x`. The function form of `ReLU`.

    Unlike `jax.nn.relu`, the function can be pickled as a field of a module.

    >>> relu(jnp.array([-1, 2])).tolist()
    [0, 2]
    """
    return nn.relu(x)


def relu6(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `min(max(0, x), 6)`, of any shape. The function form of `ReLU6`.

    >>> relu6(jnp.array([-2.0, 8.0])).tolist()
    [0.0, 6.0]
    """
    return elementwise.relu6(floating(x))


def sigmoid(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `1 / (1 + exp(-x))`, of any shape. The function form of `Sigmoid`.

    >>> sigmoid(jnp.array([0.0, 100.0])).tolist()
    [0.5, 1.0]
    """
    return nn.sigmoid(floating(x))


def silu(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * sigmoid(x)`, of any shape. The function form of `SiLU`.

    >>> silu(jnp.array([0.0, 100.0])).tolist()
    [0.0, 100.0]
    """
    return elementwise.silu(floating(x))


def hard_sigmoid(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `relu6(x + 3) / 6`, of any shape. The function form of `HardSigmoid`.

    >>> hard_sigmoid(jnp.array([-3.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    return elementwise.hard_sigmoid(floating(x))


def hard_swish(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * hard_sigmoid(x)`, of any shape. The function form of `HardSwish`.

    >>> hard_swish(jnp.array([-1.5, 3.0])).tolist()
    [-0.375, 3.0]
    """
    return elementwise.hard_swish(floating(x))


class ReLU(nn.Module):
    """Rectified linear unit, `max(0, x)` (Nair and Hinton, 2010). Keeps the shape.

    >>> ReLU()(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Shaped[Array, "*shape"]:
        return relu(x)


class ReLU6(nn.Module):
    """Rectified linear unit with an upper bound, `min(max(0, x), 6)`. Keeps the shape.

    Howard et al., *MobileNets*, 2017; Sandler et al., *MobileNetV2*, 2018, section 5: a bounded activation needs fewer
    bits. Its derivative at 0 and at 6 is 0.

    >>> ReLU6()(jnp.array([-2.0, 3.0, 8.0])).tolist()
    [0.0, 3.0, 6.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return relu6(x)


class SiLU(nn.Module):
    """Sigmoid-weighted linear unit, or swish, `x * sigmoid(x)`. Keeps the shape.

    Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016, section 2; Ramachandran, Zoph and Le, *Searching for
    Activation Functions*, 2017, equation 1 with `beta = 1`.

    >>> SiLU()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return silu(x)


class HardSigmoid(nn.Module):
    """A sigmoid of three straight lines, `relu6(x + 3) / 6`. Keeps the shape.

    Howard et al., *Searching for MobileNetV3*, 2019, section 5.2.

    >>> HardSigmoid()(jnp.array([-3.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return hard_sigmoid(x)


class HardSwish(nn.Module):
    """`SiLU` with `HardSigmoid` in place of the sigmoid, `x * relu6(x + 3) / 6`. Keeps the shape.

    Howard et al., *Searching for MobileNetV3*, 2019, section 5.2.

    >>> HardSwish()(jnp.array([-1.5, 0.0, 3.0])).tolist()
    [-0.375, 0.0, 3.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return hard_swish(x)


class GELU(nn.Module):
    """Gaussian error linear unit, `x * Phi(x)` (Hendrycks and Gimpel, 2016). Keeps the shape.

    `Phi` is the standard normal distribution function, `(1 + erf(x / sqrt(2))) / 2`. With `approximate`, the result is
    `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    >>> GELU()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    approximate: bool = False

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        x = floating(x)
        return nn.gelu(x) if self.approximate else elementwise.gelu(x)


class Sigmoid(nn.Module):
    """`1 / (1 + exp(-x))`, between 0 and 1. Its slope is at most 1/4. Keeps the shape.

    >>> Sigmoid()(jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return sigmoid(x)


class Tanh(nn.Module):
    """Hyperbolic tangent, `scale * tanh(slope * x)`. Keeps the shape.

    LeCun et al. (*Gradient-Based Learning Applied to Document Recognition*, 1998, equation 6 and appendix A) use
    `scale = 1.7159` and `slope = 2/3`, for which `f(1) = 1` and `f(-1) = -1`.

    >>> Tanh()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    scale: float = 1.0
    slope: float = 1.0

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        # The plain function must not pay for two multiplications by 1.
        x = x if self.slope == 1.0 else self.slope * x
        return jnp.tanh(x) if self.scale == 1.0 else self.scale * jnp.tanh(x)


class Softmax(nn.Module):
    """`exp(x_j) / sum_k exp(x_k)` along `axis`: probabilities of mutually exclusive classes. Keeps the shape.

    Models return logits, and losses apply a numerically stable softmax. Use this layer to read probabilities.

    >>> Softmax()(jnp.zeros((1, 4))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    axis: int = -1

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return nn.softmax(floating(x), axis=self.axis)
