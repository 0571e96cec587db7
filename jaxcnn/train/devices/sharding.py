"""Which part of an array each device holds: of a batch its share of the examples, of a state all of it or a part."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.layers import BATCH_AXIS

# Smaller arrays (biases, normalisation, the kernels of narrow layers) stay whole: dividing them would save next to
# nothing and cost a round of communication each.
SMALLEST_DIVIDED = 2**14


def make_mesh(devices: Sequence[Any]) -> Mesh:
    """The devices in a row, along the one axis that batches are divided over."""
    return Mesh(np.array(devices), (BATCH_AXIS,))


def whole(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """An equal share of the examples, which lie along `axis`, on each device."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def divided(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """An equal part of an array of the state on each device: the longest axis that they divide is cut.

    Arrays below `SMALLEST_DIVIDED` values, and those no axis of which can be cut evenly, are whole on every device.
    """
    axes = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if math.prod(shape) < SMALLEST_DIVIDED or not axes:
        return whole(mesh)
    # Of equally long axes the last: a kernel's output features.
    axis = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH_AXIS))


def bytes_per_device(tree: Any) -> int:
    """The most memory, in bytes, that the arrays of a tree take on one device."""
    taken: dict[Any, int] = {}
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            taken[shard.device] = taken.get(shard.device, 0) + shard.data.nbytes
    return max(taken.values(), default=0)
