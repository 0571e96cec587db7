"""Mapped axes over which a batch may be sharded: whether an axis is bound, and whether a collective is needed."""

from typing import Any

import jax


def is_bound(axis_name: str) -> bool:
    """Return whether the code being traced is inside a `pmap`, `shard_map` or `vmap` with an axis of this name."""
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def needs_mean(axis_name: str, *values: Any) -> bool:
    """Return whether a `pmean` of `values` over the mapped axis is needed.

    Over a single device, no `pmean` is needed: even a collective of one device is an instruction that keeps XLA from
    fusing operations. The exception is code in which JAX checks which values vary over devices. In this code, only a
    collective shows JAX that its result does not vary.
    """
    if not is_bound(axis_name):
        return False
    varying = any(axis_name in jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(values))
    return varying or jax.lax.axis_size(axis_name) > 1


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Return the arrays, marked as varying over the same mapped axes, so that one primitive accepts all of them.

    Within `shard_map`, images differ from device to device, and parameters do not. If parameters are marked as varying,
    JAX sums the gradients with respect to these parameters over the devices.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    everywhere = frozenset.union(*varying)
    return [
        jax.lax.pcast(a, tuple(missing), to="varying") if (missing := everywhere - own) else a
        for a, own in zip(arrays, varying, strict=True)
    ]
