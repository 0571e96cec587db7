"""Dtypes of computations and results."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def floating(x: jax.Array) -> jax.Array:
    """Convert `x` to float32 if its values are integers or booleans; otherwise return `x` unchanged."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def floating_dtype(x: jax.Array) -> Any:
    """Return the dtype of `x`, or float32 if the values of `x` are integers or booleans."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32


def wide(x: jax.Array, dtype: Any = None) -> jax.Array:
    """Convert `x` to the widest of three dtypes: float32, the dtype of `x`, and `dtype` (unless `dtype` is None)."""
    dtypes = (x.dtype, jnp.float32) if dtype is None else (x.dtype, jnp.float32, dtype)
    return x.astype(functools.reduce(jnp.promote_types, dtypes))


def unrounded(parameter: jax.Array, promoted: jax.Array) -> jax.Array:
    """Return `parameter` if its dtype is at least as wide as the dtype of `promoted`, else `promoted`.

    `promoted` is `parameter` cast to the dtype of the computation. If a layer used a parameter that is cast to a
    narrower dtype, the gradient of the parameter would be rounded to the narrower dtype.
    """
    return parameter if jnp.promote_types(parameter.dtype, promoted.dtype) == parameter.dtype else promoted
