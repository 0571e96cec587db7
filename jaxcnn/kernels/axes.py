"""Mapped axes over which a batch may be sharded: whether an axis is bound, and whether a collective is needed."""

from typing import Any

import jax


def is_bound(axis_name: str) -> bool:
    """Return whether the code being traced runs under a `pmap`, `shard_map` or `vmap` with an axis of this name."""
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def needs_mean(axis_name: str, *values: Any) -> bool:
    """Return whether a `pmean` of arrays over this axis is needed.

    Over one device it is not: a collective of one device is still an instruction, across which XLA fuses nothing. But
    where JAX checks which values vary over devices, only a collective tells it that these do not.
    """
    if not is_bound(axis_name):
        return False
    varying = any(axis_name in jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(values))
    return varying or jax.lax.axis_size(axis_name) > 1


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Return the arrays as operands of one primitive, where JAX checks which values vary over devices.

    Within `shard_map`, images differ from device to device and parameters do not. Once parameters are marked as
    varying too, a gradient with respect to them is summed over the devices.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    everywhere = frozenset.union(*varying)
    return [
        jax.lax.pcast(a, tuple(missing), to="varying") if (missing := everywhere - own) else a
        for a, own in zip(arrays, varying, strict=True)
    ]
