"""Shardings of arrays over devices. Batches are sharded by examples. States are replicated, or sharded along axes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.layers import BATCH_AXIS

SMALLEST_DIVIDED = 2**14
"""Arrays of the state with fewer values are replicated, since sharding small arrays saves little memory."""


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """Return a mesh of the devices with one axis, over which batches are sharded."""
    return Mesh(np.array(devices), (BATCH_AXIS,))


def whole(mesh: Mesh) -> NamedSharding:
    """Return the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that divides an array along `axis`, the axis of examples."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def divided(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding that divides an array of the state along one axis.

    The axis is the longest axis whose length is a multiple of the number of devices. Arrays without such an axis, and
    arrays of fewer than `SMALLEST_DIVIDED` values, are replicated.
    """
    axes = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if math.prod(shape) < SMALLEST_DIVIDED or not axes:
        return whole(mesh)
    # Among equally long axes, choose the last axis. In a kernel, this is the axis of output features.
    axis = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def bytes_per_device(tree: Any) -> int:
    """Return the memory, in bytes, that the arrays of a pytree occupy on the device that stores the most bytes."""
    taken: dict[Any, int] = {}
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            taken[shard.device] = taken.get(shard.device, 0) + shard.data.nbytes
    return max(taken.values(), default=0)
