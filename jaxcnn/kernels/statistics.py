"""Mean and variance of a batch, channel by channel, on one device and over several.

For every center c, `Var(x) = E[(x - c)^2] - (E[x] - c)^2`, which takes one pass over the data. A center near the mean
keeps the digits that `E[x^2] - E[x]^2` loses. It is the mean of a sample of x, or for x in 16 bits the running mean,
which is known before x: XLA can then take the sums in the pass that computes x.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.kernels.reductions import moments
from jaxcnn.kernels.synchronized import Groups, can_gather, count_of_parts, gathered, is_narrower, mean_of_parts

SAMPLE_STRIDE = 4
"""Distance between the rows, and between the columns, whose mean is the center of a channel's sums."""


def statistics_around(x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean minus a center near it, and the variance, `[C]`, over everything except channels."""
    offset, square = (total / count_of_values(x) for total in moments(x, center))
    return offset, _variance(offset, square)


def known_center(running_mean: jax.Array) -> jax.Array:
    """Return the running mean as the center of the sums of a batch, without a derivative.

    For x in 16 bits. If the mean is d standard deviations away, the variance has a relative error near `2^-24 d^2`,
    which is no more than what rounding x to 16 bits adds. A running mean that is not finite counts as 0, because a
    batch that overflows must not spoil the next one.
    """
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(running_mean), running_mean, 0.0))


def _variance(offset: jax.Array, square: jax.Array) -> jax.Array:
    return jnp.maximum(square - jnp.square(offset), 0.0)


def statistics_of_whole_batch(
    x: jax.Array, near: jax.Array, axis_name: str, groups: Groups | None, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """Return center, mean minus center, and variance of the batch of several devices, and its number of values.

    Args:
      x: this device's part of the batch.
      near: a center that is equal on all devices, from `known_center`.
      axis_name, groups: as in `gathered`.
      dtype: of the messages.
    """
    count = count_of_values(x) * count_of_parts(axis_name, groups)
    if is_narrower(x.dtype, near.dtype) or is_narrower(dtype, near.dtype):
        center = near
    else:
        center = jax.lax.stop_gradient(sample_mean(x, near.dtype))
        if can_gather(x, axis_name, groups):
            return *gathered(axis_name, groups, center, *statistics_around(x, center)), count
        center = mean_of_parts(center, axis_name, groups, dtype)
    sums = jnp.stack(moments(x, center)) / count_of_values(x)
    offset, square = mean_of_parts(sums, axis_name, groups, dtype)
    return center, offset, _variance(offset, square), count


def sample_mean(x: jax.Array, dtype: Any) -> jax.Array:
    """Return the mean `[C]` over every fourth row and column of each image.

    The square of the difference between this mean and the mean of all values is at most 16 times the variance: a
    sixteenth of the values cannot differ more from the others. Images are averaged one by one, because a long sum of
    large values loses digits.
    """
    strides = (1, *(SAMPLE_STRIDE,) * (x.ndim - 2), 1)[-x.ndim :]
    sample = jax.lax.slice(x, (0,) * x.ndim, x.shape, strides).astype(dtype)
    of_examples = sample.mean(tuple(range(1, x.ndim - 1)))
    return of_examples.mean(tuple(range(of_examples.ndim - 1)))


def count_of_values(x: Any) -> int:
    return math.prod(x.shape[:-1])
