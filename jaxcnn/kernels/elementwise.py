"""Activation functions of floating-point arrays. Convolutions for inference can apply these functions to their
output."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.kernels._primitive import Kernel, call, instantiated


def relu6(x: jax.Array) -> jax.Array:
    """Return `min(max(0, x), 6)`."""
    # The derivative of `clamp` at 0 and 6 is 0, as in torch; the derivative of `minimum` and `maximum` is 1/2.
    return jax.lax.clamp(np.zeros((), x.dtype), x, np.full((), 6, x.dtype))


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return `relu6(x + 3) / 6`."""
    return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """Return `x * hard_sigmoid(x)`."""
    return x * hard_sigmoid(x)


def gelu(x: jax.Array) -> jax.Array:
    """Return `x Phi(x)`, where Phi is the standard normal distribution function."""
    return call(Smooth("gelu"), x)[0]


def silu(x: jax.Array) -> jax.Array:
    """Return `x * sigmoid(x)`."""
    return call(Smooth("silu"), x)[0]


@dataclass(frozen=True)
class Smooth(Kernel):
    """A smooth activation function `x g(x)`: GELU or SiLU.

    In reverse mode, this kernel keeps one array in memory: the slope at each x. JAX's own implementation keeps one
    array for each factor of the slope: three for GELU. 16-bit values are computed in float32 and rounded once.

    Attributes:
      name: "gelu" or "silu".
    """

    name: str

    def outputs(self, x: Any) -> list[Any]:
        return [x.update(weak_type=False)]

    def form(self, x: jax.Array) -> list[jax.Array]:
        wide = _widened(x)
        gate, _ = _GATES[self.name](wide)
        return [(wide * gate).astype(x.dtype)]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, wide = operands[0], _widened(operands[0])
        gate, slope = _GATES[self.name](wide)
        return [instantiated(tangents[0], x) * (gate + wide * slope).astype(x.dtype)]


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the standard normal distribution function and its derivative, the density."""
    distribution = 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))
    return distribution, math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * x * x)


def _logistic(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sigmoid and its derivative."""
    sigmoid = jax.nn.sigmoid(x)
    return sigmoid, sigmoid * (1 - sigmoid)


_GATES = {"gelu": _normal, "silu": _logistic}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": relu6,
    "silu": jax.nn.silu,
    "hard_swish": hard_swish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
"""Activation functions by name. The position of a function in this dict, counted from 1, is its number in
`native/fused.cpp`."""

FORMS: tuple[tuple[str, Callable[[jax.Array], jax.Array]], ...] = (
    *ACTIVATIONS.items(),
    ("silu", lambda x: Smooth("silu").form(x)[0]),
    ("gelu", lambda x: Smooth("gelu").form(x)[0]),
)
"""Functions whose traced operations are recognized as an activation function, each with its name in `ACTIVATIONS`."""
