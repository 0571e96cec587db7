"""Gradient accumulation: sums over micro-batches, so that a batch larger than the memory makes one update.

Batch normalisation takes its statistics over each micro-batch, and its running statistics move once for each.
Without it the sums are those of the whole batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Micro-batches for the full data set, where their number is not given: so few images at once that they fit memory.
# Off accelerators each micro-batch is compiled by itself (see below), so they are few and large.
FULL_BATCH_IMAGES = 512
FULL_BATCH_PARTS_ON_CPU = 8


def parts_of_full_batch(share: int, platform: str) -> int:
    """Into how many micro-batches a device splits its `share` of the data set, if nothing else was asked for."""
    parts = -(-share // FULL_BATCH_IMAGES)
    return min(parts, FULL_BATCH_PARTS_ON_CPU) if platform == "cpu" else parts


def sum_over_parts(
    function: Callable[[Any, Any, jax.Array], tuple[Any, Any]], carry: Any, batch: Any, parts: int
) -> tuple[Any, Any]:
    """Calls `function(carry, part, index) -> (carry, values)` on each part in turn and sums the values up.

    A part takes every `parts`-th example, so that under `jit` over a mesh each device has its share of it. If the
    batch cannot be split evenly, what is left over at its end is one more, shorter part, in place of one of the
    `parts`; it may also leave fewer than `parts`.

    Args:
      function: of a carry, a part of the batch and the part's index; its values must be sums over examples.
      carry: handed from part to part.
      batch: arrays `[N, ...]` in any tree.
      parts: number of micro-batches.

    Returns:
      The last carry and the sum of the values.
    """
    examples = len(jax.tree.leaves(batch)[0])
    if parts == 1:
        return function(carry, batch, jnp.zeros((), jnp.int32))
    size = -(-examples // parts)
    even = examples // size
    stacked = jax.tree.map(lambda x: x[: even * size].reshape(size, even, *x.shape[1:]).swapaxes(0, 1), batch)
    rest = jax.tree.map(lambda x: x[even * size :], batch)

    def one(carry_and_total: Any, index_and_part: Any) -> tuple[Any, None]:
        (carry, total), (index, part) = carry_and_total, index_and_part
        carry, values = function(carry, part, index)
        return (carry, jax.tree.map(jnp.add, total, values)), None

    first = jax.tree.map(lambda x: x[0], stacked)
    shapes = jax.eval_shape(function, carry, first, jnp.zeros((), jnp.int32))[1]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # XLA's fast convolutions on a CPU are lost inside a loop (15 times slower for a ResNet-20), so there the loop is
    # unrolled; elsewhere it keeps the program small.
    unroll = even if jax.default_backend() == "cpu" else 1
    (carry, total), _ = jax.lax.scan(one, (carry, zero), (jnp.arange(even), stacked), unroll=unroll)
    if examples % size:
        (carry, total), _ = one((carry, total), (jnp.asarray(even), rest))
    return carry, total
