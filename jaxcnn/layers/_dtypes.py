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


def unrounded(parameter: jax.Array, promoted: jax.Array) -> jax.Array:
    """Return the parameter itself if its dtype is the wider one, so that its gradient need not be rounded."""
    return parameter if jnp.promote_types(parameter.dtype, promoted.dtype) == parameter.dtype else promoted
