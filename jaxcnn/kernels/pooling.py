"""Max pooling."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.kernels._selection import is_inlined, on_cpu

Pair = tuple[int, int]

WIDEST_SLICED = 8
"""Widest window that is computed from slices: each tap is an operation, so wide windows would be large programs."""


def max_pool(x: jax.Array, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """Return the largest value of each window of images `[N, H, W, C]`.

    Padding counts as the lowest value of the dtype, and NaN wins. The gradient goes to the largest value; of
    several equal ones, to the first in row-major order.
    """
    lowest = np.array(_lowest(x.dtype), x.dtype)
    if max(window) <= WIDEST_SLICED and on_cpu() and not is_inlined():
        # XLA's gradient of a window on a CPU is a scatter, 4 to 25 times slower than the gradient of slices.
        x = jax.lax.pad(x, lowest, ((0, 0, 0), *((*side, 0) for side in padding), (0, 0, 0)))
        return _max_of_slices(x, window, strides)
    return jax.lax.reduce_window(
        x,
        lowest,
        jax.lax.max,
        window_dimensions=(1, *window, 1),
        window_strides=(1, *strides, 1),
        padding=((0, 0), *padding, (0, 0)),
    )


def _lowest(dtype: Any) -> float:
    """Return the value that padding counts as: minus infinity, or the smallest integer or boolean."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf
    return 0 if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _max_of_slices(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Return the largest value of each window of padded images: along each axis, of one strided slice for each tap.

    Columns come before rows, so that the first of equal values is the first in row-major order. Without the barrier,
    XLA computes the columns again for each row.
    """

    def along(axis: int, x: jax.Array) -> jax.Array:
        last = x.shape[axis] - window[axis - 1] + 1
        slices = (jax.lax.slice_in_dim(x, tap, last + tap, strides[axis - 1], axis) for tap in range(window[axis - 1]))
        return functools.reduce(_later_if_larger, slices)

    return along(1, jax.lax.optimization_barrier(along(2, x)))


def _later_if_larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.select((b > a) | (b != b), b, a)
