"""Sums of many arrays over devices, in few messages.

XLA for TPUs merges the sums of single arrays into a few messages by itself. XLA for GPUs sends a message for nearly
each array, of which a deep network has hundreds, and most are small. There this module joins arrays of one dtype into
buckets before they are summed. On a CPU a copy costs more than a message, so arrays are summed one by one.

Buckets are filled from the last array to the first. Names of layers grow with depth, and the backward pass computes
the gradients of the deepest layers first, so that a bucket holds gradients which are computed one after another. XLA
for GPUs computes them when the bucket needs them, and keeps what they are computed from until then. Small arrays, such
as the scales of normalizations and the kernel of the first layer, come from all depths, so they are in the last bucket.

XLA for GPUs joins messages by itself, up to 30 MiB, without regard to when their arrays are computed. So buckets are
larger than half of that.
"""

from typing import Any

import jax
import jax.numpy as jnp

BUCKET_BYTES = 15 * 2**20
"""Size that buckets exceed, if there is more than one of their dtype. An array that exceeds it is summed alone."""

SMALL_BYTES = 64 * 2**10
"""Size below which an array is small."""


def sum_of_trees(tree: Any, axis_name: str) -> Any:
    """Return the sums over a mapped axis of the arrays of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    sums = jax.lax.platform_dependent(
        *map(jnp.asarray, leaves),
        cuda=lambda *arrays: _in_buckets(arrays, axis_name),
        rocm=lambda *arrays: _in_buckets(arrays, axis_name),
        default=lambda *arrays: jax.lax.psum(arrays, axis_name),
    )
    return jax.tree.unflatten(structure, sums)


def _in_buckets(arrays: tuple[jax.Array, ...], axis_name: str) -> tuple[jax.Array, ...]:
    """Return the sums of arrays, each of which is one array of a message or a part of one."""
    sums: dict[int, jax.Array] = {}
    for bucket in buckets(arrays):
        joined = [arrays[i].ravel() for i in bucket]
        total = jax.lax.psum(jnp.concatenate(joined) if len(bucket) > 1 else arrays[bucket[0]], axis_name)
        if len(bucket) == 1:
            sums[bucket[0]] = total
            continue
        start = 0
        for i in bucket:
            sums[i] = jax.lax.slice(total, (start,), (start + arrays[i].size,)).reshape(arrays[i].shape)
            start += arrays[i].size
    return tuple(sums[i] for i in range(len(arrays)))


def buckets(arrays: Any) -> list[list[int]]:
    """Return the places of arrays that are summed together, the last first.

    The arrays of a bucket have one dtype. They exceed `BUCKET_BYTES`, unless no others of their dtype are left, and are
    at most three times as large. Arrays below `SMALL_BYTES` follow the others.

    >>> sizes = {"f": 2**20, "v": 64, "m": 2**23}
    >>> buckets([jax.ShapeDtypeStruct((sizes[kind],), "float32") for kind in "ffvmffvfffff"])
    [[3], [11, 10, 9, 8], [7, 5, 4, 1, 0, 6, 2]]
    """
    sizes = [x.size * x.dtype.itemsize for x in arrays]
    alone = [[i] for i, size in enumerate(sizes) if size > BUCKET_BYTES]
    joined = [i for i in reversed(range(len(sizes))) if sizes[i] <= BUCKET_BYTES]
    found = []
    for dtype in dict.fromkeys(arrays[i].dtype for i in joined):
        bucket: list[int] = []
        of_dtype = [i for i in joined if arrays[i].dtype == dtype]
        left, filled = sum(sizes[i] for i in of_dtype), 0
        for i in sorted(of_dtype, key=lambda i: sizes[i] < SMALL_BYTES):  # stable
            bucket.append(i)
            left, filled = left - sizes[i], filled + sizes[i]
            if min(left, filled) > BUCKET_BYTES:
                found.append(bucket)
                bucket, filled = [], 0
        found.append(bucket)
    return alone + found
