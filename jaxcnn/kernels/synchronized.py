"""Statistics of a batch that is divided over devices, from those of each device's part.

Let the part of device d have the mean `c + o_d` and the variance `v_d`, for a center c that all devices share. Parts
are equally large, so the whole batch has the mean `c + o` and the variance v, with

    `o = E_d[o_d]`,  `v = E_d[v_d + (o_d - o)^2]`

(Chan, Golub and LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*, 1979).

`v = E_d[v_d + o_d^2] - o^2` needs one sum over devices, and loses digits where c is far from the mean. Without a center
that all devices know, `gathered` has each device gather the numbers of all, and use the center of the first. That is
one message too, but what a device receives grows with the number of devices. In reverse mode both take one message.
"""

from typing import Any

import jax
import jax.numpy as jnp

Groups = tuple[tuple[int, ...], ...]
Statistics = tuple[jax.Array, jax.Array, jax.Array]

MOST_GATHERED = 64
"""Devices above which numbers are not gathered."""


def can_gather(x: jax.Array, axis_name: str, groups: Groups | None) -> bool:
    """Return whether `gathered` may be used for statistics like x.

    It cannot where JAX checks which values vary over devices, because JAX does not see that its results do not.
    """
    varies = axis_name in jax.typeof(x).manual_axis_type.varying
    return not varies and count_of_parts(axis_name, groups) <= MOST_GATHERED


def count_of_parts(axis_name: str, groups: Groups | None) -> int:
    """Return the number of devices that share statistics."""
    return len(groups[0]) if groups else jax.lax.axis_size(axis_name)


def gathered(axis_name: str, groups: Groups | None, center: jax.Array, offset: jax.Array, var: jax.Array) -> Statistics:
    """Return a common center, the mean minus this center, and the variance of the whole batch, each `[C]`.

    Args:
      axis_name: the mapped axis.
      groups: groups of device indices; the parts within a group are one batch. None for all devices.
      center: near the mean of this device's part, without a derivative.
      offset: the mean of this device's part minus the center.
      var: variance of this device's part.
    """
    parts = jax.lax.all_gather(jnp.stack([center, offset, var]), axis_name, axis_index_groups=groups)
    centers = jax.lax.stop_gradient(parts[:, 0])
    offsets = (centers - centers[0]) + parts[:, 1]
    mean = offsets.mean(0)
    return centers[0], mean, (parts[:, 2] + jnp.square(offsets - mean)).mean(0)


def mean_of_parts(x: jax.Array, axis_name: str, groups: Groups | None, dtype: Any) -> jax.Array:
    """Return the mean of an array over devices, sent in `dtype` if this is narrower."""
    sent = x.astype(dtype) if is_narrower(dtype, x.dtype) else x
    return jax.lax.pmean(sent, axis_name, axis_index_groups=groups).astype(x.dtype)


def is_narrower(dtype: Any, other: Any) -> bool:
    """Return whether a dtype has fewer bits than another.

    >>> is_narrower("bfloat16", "float32"), is_narrower("float32", "float32")
    (True, False)
    """
    return jnp.dtype(dtype).itemsize < jnp.dtype(other).itemsize
