"""How arrays are sharded over devices: batches by examples; states replicated, or by their longest axis."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.layers import BATCH_AXIS

SMALLEST_DIVIDED = 2**14
"""Number of values below which an array is replicated: sharding it saves little and costs a round of communication."""


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """Return a mesh with one axis, over which batches are divided."""
    return Mesh(np.array(devices), (BATCH_AXIS,))


def whole(mesh: Mesh) -> NamedSharding:
    """Return the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that divides an array equally along `axis`, the axis of examples."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def divided(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding that divides an array of the state along its longest axis that the devices divide.

    Arrays of fewer than `SMALLEST_DIVIDED` values, and those without such an axis, are replicated.
    """
    axes = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if math.prod(shape) < SMALLEST_DIVIDED or not axes:
        return whole(mesh)
    # The last of equally long axes: a kernel's output features.
    axis = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def bytes_per_device(tree: Any) -> int:
    """Return the largest number of bytes that the arrays of a tree occupy on one device."""
    taken: dict[Any, int] = {}
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            taken[shard.device] = taken.get(shard.device, 0) + shard.data.nbytes
    return max(taken.values(), default=0)
