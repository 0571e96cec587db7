"""Activation functions of floating-point arrays. The convolution of inference computes them with its output."""

import functools
from collections.abc import Callable

import jax
import numpy as np


def relu6(x: jax.Array) -> jax.Array:
    """Return `min(max(0, x), 6)`."""
    # The derivative of `clamp` at 0 and 6 is 0, as in torch; that of `minimum` and `maximum` is 1/2.
    return jax.lax.clamp(np.zeros((), x.dtype), x, np.full((), 6, x.dtype))


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return `relu6(x + 3) / 6`."""
    return relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """Return `x * hard_sigmoid(x)`."""
    return x * hard_sigmoid(x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": relu6,
    "silu": jax.nn.silu,
    "hard_swish": hard_swish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
"""Activation functions by name, in the order of their numbers in `native/fused.cpp`, which start with 1."""
