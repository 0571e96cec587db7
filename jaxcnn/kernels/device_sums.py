"""Sums of many arrays over devices, in few messages.

XLA for TPUs merges the sums of single arrays into a few messages by itself. XLA for GPUs sends a message for nearly
each array, of which a deep network has hundreds, and most are small. There this module joins arrays of one dtype into
buckets before they are summed. On a CPU a copy costs more than a message, so arrays are summed one by one.
"""

from typing import Any

import jax
import jax.numpy as jnp

BUCKET_BYTES = 32 * 2**20
"""Largest bucket: long enough to use the full bandwidth between GPUs, and short enough for several in a step, so that
the first is sent while later gradients are computed."""

LARGE_BYTES = 8 * 2**20
"""Size from which an array is summed alone, because a copy would cost more than a message."""


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
    """Return the places of arrays that are summed together: of one dtype, at most `BUCKET_BYTES`, in their order.

    >>> f32, i32 = (jax.ShapeDtypeStruct((2**20,), dtype) for dtype in ("float32", "int32"))
    >>> buckets([f32, i32, f32, jax.ShapeDtypeStruct((2**22,), "float32"), i32])
    [[0, 2], [1, 4], [3]]
    """
    found: list[list[int]] = []
    last: dict[Any, tuple[list[int], int]] = {}
    for i, x in enumerate(arrays):
        size = x.size * x.dtype.itemsize
        if size >= LARGE_BYTES:
            found.append([i])
            continue
        bucket, filled = last.get(x.dtype, ([], BUCKET_BYTES))
        if filled + size > BUCKET_BYTES:
            bucket, filled = [], 0
            found.append(bucket)
        bucket.append(i)
        last[x.dtype] = bucket, filled + size
    return found
