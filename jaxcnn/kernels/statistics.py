"""Mean and variance of a batch for each channel, on one device and over several devices.

For every center c, `Var(x) = E[(x - c)^2] - (E[x] - c)^2`, which needs one pass over the data. The formula
`E[x^2] - E[x]^2` loses digits if the mean is large. With a center c near the mean, no digits are lost. The center is
the mean of a sample of x. For x in 16 bits, the center is the running mean. The running mean is known before x, so that
XLA can compute the sums in the pass that computes x.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.kernels.reductions import moments
from jaxcnn.kernels.synchronized import Groups, can_gather, count_of_parts, gathered, is_narrower, mean_of_parts

SAMPLE_STRIDE = 4
"""Distance between the rows, and between the columns, of the sample whose mean is the center of a channel's sums."""


def statistics_around(x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean minus `center`, and the variance, both `[C]`; `center` must be close to the mean."""
    offset, square = (total / count_of_values(x) for total in moments(x, center))
    return offset, _variance(offset, square)


def known_center(running_mean: jax.Array) -> jax.Array:
    """Return the running mean, without a derivative, as the center of the sums of a batch.

    The running mean is the center for x in 16 bits. If the mean of the batch is d standard deviations away from the
    center, the variance has a relative error of about `2^-24 d^2`. The error from rounding x to 16 bits is at least as
    large. A running mean that is not finite is replaced by 0: a batch that overflows must not affect the next batch.
    """
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(running_mean), running_mean, 0.0))


def _variance(offset: jax.Array, square: jax.Array) -> jax.Array:
    return jnp.maximum(square - jnp.square(offset), 0.0)


def statistics_of_whole_batch(
    x: jax.Array, near: jax.Array, axis_name: str, groups: Groups | None, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """Return the statistics of a batch on several devices: center, mean minus center, variance, and number of values.

    Args:
      x: this device's part of the batch.
      near: result of `known_center`, a value close to the mean that is equal on all devices.
      axis_name, groups: as in `gathered`.
      dtype: dtype in which devices exchange the statistics.
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

    The sample contains a sixteenth of the values. Therefore, the squared difference between the mean of the sample and
    the mean of all values is at most 16 times the variance. Images are averaged one by one, because a long sum of large
    values loses digits.
    """
    strides = (1, *(SAMPLE_STRIDE,) * (x.ndim - 2), 1)[-x.ndim :]
    sample = jax.lax.slice(x, (0,) * x.ndim, x.shape, strides).astype(dtype)
    of_examples = sample.mean(tuple(range(1, x.ndim - 1)))
    return of_examples.mean(tuple(range(of_examples.ndim - 1)))


def count_of_values(x: Any) -> int:
    return math.prod(x.shape[:-1])
