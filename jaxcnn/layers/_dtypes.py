"""Dtypes of computations and results."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def floating(x: jax.Array) -> jax.Array:
    """Return `x`, as float32 if it holds integers or booleans."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def floating_dtype(x: jax.Array) -> Any:
    """Return the dtype of `x`, or float32 for integers and booleans."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32


def wide(x: jax.Array, dtype: Any = None) -> jax.Array:
    """Return `x` in float32, its own dtype or `dtype`, whichever is the widest."""
    dtypes = (x.dtype, jnp.float32) if dtype is None else (x.dtype, jnp.float32, dtype)
    return x.astype(functools.reduce(jnp.promote_types, dtypes))


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return `[..., C] + [C]`, or `y` if there is no bias.

    The gradient of the bias is summed in float32: XLA on a CPU sums bfloat16 in bfloat16, in which 256 + 1 is 256.
    """
    if bias is None:
        return y
    row = wide(bias).reshape((1,) * (y.ndim - 1) + (-1,))
    return y + (row if row.dtype == y.dtype else jnp.broadcast_to(row, y.shape).astype(y.dtype))
