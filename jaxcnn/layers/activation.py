"""Activation functions. For integer inputs, all functions except ReLU return float32."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels import elementwise
from jaxcnn.layers._dtypes import floating


def relu(x: Shaped[InputArray, "*shape"]) -> Shaped[Array, "*shape"]:
    """Return `max(0, x)` in the shape and dtype of `x`. The layer `ReLU` computes the same function.

    Unlike `jax.nn.relu`, this function can be pickled as a field of a module.

    >>> relu(jnp.array([-1, 2])).tolist()
    [0, 2]
    """
    return nn.relu(x)


def relu6(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `min(max(0, x), 6)` in the shape of `x`. The layer `ReLU6` computes the same function.

    >>> relu6(jnp.array([-2.0, 8.0])).tolist()
    [0.0, 6.0]
    """
    return elementwise.relu6(floating(x))


def sigmoid(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `1 / (1 + exp(-x))` in the shape of `x`. The layer `Sigmoid` computes the same function.

    >>> sigmoid(jnp.array([0.0, 100.0])).tolist()
    [0.5, 1.0]
    """
    return nn.sigmoid(floating(x))


def silu(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * sigmoid(x)` in the shape of `x`. The layer `SiLU` computes the same function.

    >>> silu(jnp.array([0.0, 100.0])).tolist()
    [0.0, 100.0]
    """
    return elementwise.silu(floating(x))


def hard_sigmoid(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `relu6(x + 3) / 6` in the shape of `x`. The layer `HardSigmoid` computes the same function.

    >>> hard_sigmoid(jnp.array([-3.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    return elementwise.hard_sigmoid(floating(x))


def hard_swish(x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
    """Return `x * hard_sigmoid(x)` in the shape of `x`. The layer `HardSwish` computes the same function.

    >>> hard_swish(jnp.array([-1.5, 3.0])).tolist()
    [-0.375, 3.0]
    """
    return elementwise.hard_swish(floating(x))


class ReLU(nn.Module):
    """Rectified linear unit, `max(0, x)` (Nair and Hinton, 2010). The output has the shape of the input.

    >>> ReLU()(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Shaped[Array, "*shape"]:
        return relu(x)


class ReLU6(nn.Module):
    """Rectified linear unit with an upper bound, `min(max(0, x), 6)`. The output has the shape of the input.

    Source: Howard et al., *MobileNets*, 2017; Sandler et al., *MobileNetV2*, 2018, section 5. An activation with an
    upper bound can be stored in fewer bits. The derivative of ReLU6 at 0 and at 6 is 0.

    >>> ReLU6()(jnp.array([-2.0, 3.0, 8.0])).tolist()
    [0.0, 3.0, 6.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return relu6(x)


class SiLU(nn.Module):
    """Sigmoid-weighted linear unit, or swish, `x * sigmoid(x)`. The output has the shape of the input.

    Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016, section 2; Ramachandran, Zoph and Le, *Searching for
    Activation Functions*, 2017, equation 1 with `beta = 1`.

    >>> SiLU()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return silu(x)


class HardSigmoid(nn.Module):
    """Hard sigmoid, `relu6(x + 3) / 6`: the sigmoid approximated by three straight lines.

    The output has the shape of the input.

    Howard et al., *Searching for MobileNetV3*, 2019, section 5.2.

    >>> HardSigmoid()(jnp.array([-3.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return hard_sigmoid(x)


class HardSwish(nn.Module):
    """`SiLU` with `HardSigmoid` in place of the sigmoid, `x * relu6(x + 3) / 6`. The output has the shape of the input.

    Howard et al., *Searching for MobileNetV3*, 2019, section 5.2.

    >>> HardSwish()(jnp.array([-1.5, 0.0, 3.0])).tolist()
    [-0.375, 0.0, 3.0]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return hard_swish(x)


class GELU(nn.Module):
    """Gaussian error linear unit, `x * Phi(x)` (Hendrycks and Gimpel, 2016). The output has the shape of the input.

    `Phi` is the standard normal distribution function, `(1 + erf(x / sqrt(2))) / 2`. If `approximate` is true, the
    result is `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.

    >>> GELU()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    approximate: bool = False

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        x = floating(x)
        return nn.gelu(x) if self.approximate else elementwise.gelu(x)


class Sigmoid(nn.Module):
    """Sigmoid, `1 / (1 + exp(-x))`: values between 0 and 1, with a slope of at most 1/4.

    The output has the shape of the input.

    >>> Sigmoid()(jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return sigmoid(x)


class Tanh(nn.Module):
    """Hyperbolic tangent, `scale * tanh(slope * x)`. The output has the shape of the input.

    LeCun et al. (*Gradient-Based Learning Applied to Document Recognition*, 1998, equation 6 and appendix A) use
    `scale = 1.7159` and `slope = 2/3`, for which the result is 1 at x = 1 and -1 at x = -1.

    >>> Tanh()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    scale: float = 1.0
    slope: float = 1.0

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        # The ordinary tanh must not pay for two multiplications by 1.
        x = x if self.slope == 1.0 else self.slope * x
        return jnp.tanh(x) if self.scale == 1.0 else self.scale * jnp.tanh(x)


class Softmax(nn.Module):
    """Softmax, `exp(x_j) / sum_k exp(x_k)` along `axis`: probabilities of mutually exclusive classes.

    The output has the shape of the input.

    Models return logits, and losses apply a numerically stable softmax. Use this layer to turn logits into
    probabilities.

    >>> Softmax()(jnp.zeros((1, 4))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    axis: int = -1

    def __call__(self, x: Shaped[InputArray, "*shape"]) -> Float[Array, "*shape"]:
        return nn.softmax(floating(x), axis=self.axis)
