"""Mapped axes, over which a batch may be spread: whether there is one, and whether anything has to travel."""

from typing import Any

import jax


def is_bound(axis_name: str) -> bool:
    """Whether the code being traced runs under a `pmap`, `shard_map` or `vmap` with an axis of this name."""
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def is_shared(axis_name: str, *values: Any) -> bool:
    """Whether the mean of arrays over this axis is more than the arrays: over one device it is what they are.

    A collective of one device would still be an instruction of the program, across which XLA fuses nothing. Where JAX
    checks which values vary over devices, only a collective tells it that these do not.
    """
    if not is_bound(axis_name):
        return False
    varying = any(axis_name in jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(values))
    return varying or jax.lax.axis_size(axis_name) > 1


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The same arrays as operands of a primitive of our own, where JAX checks which values vary over devices.

    Within `shard_map` images differ from device to device and parameters do not; said here, a gradient by the latter
    is summed over the devices.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    everywhere = frozenset.union(*varying)
    return [
        jax.lax.pcast(a, tuple(missing), to="varying") if (missing := everywhere - own) else a
        for a, own in zip(arrays, varying, strict=True)
    ]
