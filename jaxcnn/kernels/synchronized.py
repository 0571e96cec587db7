"""Statistics of a batch that is divided over devices, computed from the statistics of each device's part.

Let the part of device d have the mean `c + o_d` and the variance `v_d`, for a center c that all devices share. All
parts are equally large, so that the whole batch has the mean `c + o` and the variance v with

    `o = E_d[o_d]`,  `v = E_d[v_d + (o_d - o)^2]`

(Chan, Golub and LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*, 1979).

The formula `v = E_d[v_d + o_d^2] - o^2` needs one sum over devices, but loses digits if c is far from the mean. If the
devices share no center, `gathered` sends the statistics of every device to all devices, and uses the center of the
first device. `gathered` also needs one exchange only, but each device receives more data if there are more devices. In
reverse mode, the formula and `gathered` each need one exchange.
"""

from typing import Any

import jax
import jax.numpy as jnp

Groups = tuple[tuple[int, ...], ...]
Statistics = tuple[jax.Array, jax.Array, jax.Array]

MOST_GATHERED = 64
"""Largest number of devices for which statistics are gathered."""


def can_gather(x: jax.Array, axis_name: str, groups: Groups | None) -> bool:
    """Return whether `gathered` may be used for statistics of x.

    If JAX checks which values vary over devices, `gathered` may not be used: JAX would treat the equal results of
    `gathered` as varying.
    """
    varies = axis_name in jax.typeof(x).manual_axis_type.varying
    return not varies and count_of_parts(axis_name, groups) <= MOST_GATHERED


def count_of_parts(axis_name: str, groups: Groups | None) -> int:
    """Return the number of devices that share a batch and compute its statistics together."""
    return len(groups[0]) if groups else jax.lax.axis_size(axis_name)


def gathered(axis_name: str, groups: Groups | None, center: jax.Array, offset: jax.Array, var: jax.Array) -> Statistics:
    """Return a common center, the mean minus this center, and the variance of the whole batch, each `[C]`.

    Args:
      axis_name: name of the mapped axis.
      groups: groups of device indices; the devices of one group share a batch. None puts all devices in one group.
      center: a value `[C]` near the mean of this device's part of the batch, without a derivative.
      offset: mean of this device's part of the batch, minus `center`.
      var: variance of this device's part of the batch.
    """
    parts = jax.lax.all_gather(jnp.stack([center, offset, var]), axis_name, axis_index_groups=groups)
    centers = jax.lax.stop_gradient(parts[:, 0])
    offsets = (centers - centers[0]) + parts[:, 1]
    mean = offsets.mean(0)
    return centers[0], mean, (parts[:, 2] + jnp.square(offsets - mean)).mean(0)


def mean_of_parts(x: jax.Array, axis_name: str, groups: Groups | None, dtype: Any) -> jax.Array:
    """Return the mean of `x` over devices. Devices send `x` in `dtype` if `dtype` is narrower than the dtype of `x`."""
    sent = x.astype(dtype) if is_narrower(dtype, x.dtype) else x
    return jax.lax.pmean(sent, axis_name, axis_index_groups=groups).astype(x.dtype)


def is_narrower(dtype: Any, other: Any) -> bool:
    """Return whether `dtype` has fewer bits than `other`.

    >>> is_narrower("bfloat16", "float32"), is_narrower("float32", "float32")
    (True, False)
    """
    return jnp.dtype(dtype).itemsize < jnp.dtype(other).itemsize
