"""Sums of many arrays over devices, in few messages.

XLA for TPUs merges the sums of single arrays into a few messages by itself. XLA for GPUs sends a message for nearly
each array, of which a deep network has hundreds, and most are small. There this module joins arrays of one dtype into
buckets before they are summed. On a CPU a copy costs more than a message, so arrays are summed one by one.

Buckets are filled from the last array to the first. Names of layers grow with depth, and the backward pass computes
the gradients of the deepest layers first, so that a bucket holds gradients which are computed one after another. XLA
for GPUs computes them when the bucket needs them, and keeps what they are computed from until then. Small arrays, such
as the scales of normalizations and the kernel of the first layer, come from all depths, so they have buckets of their
own.
"""

from typing import Any

import jax
import jax.numpy as jnp

BUCKET_BYTES = 32 * 2**20
"""Largest bucket: long enough to use the full bandwidth between GPUs, and short enough for several in a step."""

LARGE_BYTES = 8 * 2**20
"""Size from which an array is summed alone, because a copy would cost more than a message."""

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
    """Return the places of arrays that are summed together, at most `BUCKET_BYTES`, the last first.

    The arrays of a bucket have one dtype, and are all small or all not.

    >>> sizes = {"f": 2**20, "v": 64, "m": 2**21}
    >>> buckets([jax.ShapeDtypeStruct((sizes[kind],), "float32") for kind in "ffvmffvfffff"])
    [[11, 10, 9, 8, 7, 5, 4, 1], [6, 2], [3], [0]]
    """
    found: list[list[int]] = []
    last: dict[Any, tuple[list[int], int]] = {}
    for i, x in reversed([*enumerate(arrays)]):
        size = x.size * x.dtype.itemsize
        if size >= LARGE_BYTES:
            found.append([i])
            continue
        kind = x.dtype, size < SMALL_BYTES
        bucket, filled = last.get(kind, ([], BUCKET_BYTES))
        if filled + size > BUCKET_BYTES:
            bucket, filled = [], 0
            found.append(bucket)
        bucket.append(i)
        last[kind] = bucket, filled + size
    return found
