"""Sum many arrays over devices with few messages.

XLA for TPUs merges the sums of single arrays into a few messages. XLA for GPUs sends nearly one message per array. A
deep network has hundreds of arrays, most of which are small. On GPUs, this module therefore joins arrays of one dtype
into buckets before they are summed. On a CPU, a copy costs more than a message, so that arrays are summed one by one.

Buckets are filled from the last array to the first. Names of layers grow with depth, and the backward pass computes the
gradients of the deepest layers first. Filled in this order, a bucket contains gradients that are computed one after
another. XLA for GPUs computes the gradients when the bucket needs them, and keeps their operands in memory until then.
Small arrays, such as scales of normalizations and the kernel of the first layer, come from all depths, and are put in
the last bucket.

XLA for GPUs also joins messages itself, up to 30 MiB, without regard to when their arrays are computed. Buckets are
larger than half of this size, so that XLA cannot join two buckets.
"""

from typing import Any

import jax
import jax.numpy as jnp

BUCKET_BYTES = 15 * 2**20
"""Smallest size of a bucket if there are several buckets of its dtype. An array above this size is summed alone."""

SMALL_BYTES = 64 * 2**10
"""Size below which an array is small."""


def sum_of_trees(tree: Any, axis_name: str) -> Any:
    """Return the tree with each array replaced by its sum over the mapped axis `axis_name`."""
    leaves, structure = jax.tree.flatten(tree)
    sums = jax.lax.platform_dependent(
        *map(jnp.asarray, leaves),
        cuda=lambda *arrays: _in_buckets(arrays, axis_name),
        rocm=lambda *arrays: _in_buckets(arrays, axis_name),
        default=lambda *arrays: jax.lax.psum(arrays, axis_name),
    )
    return jax.tree.unflatten(structure, sums)


def _in_buckets(arrays: tuple[jax.Array, ...], axis_name: str) -> tuple[jax.Array, ...]:
    """Return the sum of each array over devices. Each message contains the arrays of one bucket."""
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
    """Return the indices of the arrays in each bucket. Arrays of one bucket are summed together.

    The arrays of a bucket have one dtype. An array above `BUCKET_BYTES` has a bucket of its own. Each other bucket has
    a total size between one and three times `BUCKET_BYTES`; this size is smaller only if the bucket is the only one of
    its dtype. Arrays below `SMALL_BYTES` come after all larger arrays.

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
