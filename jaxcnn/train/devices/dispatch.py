"""Several training steps in one call of a compiled program.

A call costs the host the same however long the device is busy with it. Where steps are short, the device waits for
the host; several steps a call keep it busy.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


def several_steps(step: Callable[..., Any], count: int, *, unroll: bool) -> Callable[..., Any]:
    """`count` steps one after another: `(state, batches) -> (state, metrics)`.

    Batches and metrics have an axis of length `count` in front. The steps are a loop on the device, or, with
    `unroll`, written out, which compiles `count` times as long: on a CPU XLA's fast convolutions do not work within
    a loop.
    """

    def steps(state: Any, batches: Any) -> tuple[Any, Any]:
        if not unroll:
            return jax.lax.scan(step, state, batches)
        metrics = []
        for index in range(count):
            state, sums = step(state, jax.tree.map(lambda array, index=index: array[index], batches))
            metrics.append(sums)
        return state, jax.tree.map(lambda *sums: jnp.stack(sums), *metrics)

    return steps


def dispatches(first_step: int, last_step: int, count: int, stops_after: Callable[[int], bool]) -> Iterator[int]:
    """How many steps each call makes, from after `first_step` until `last_step`: `count` of them, or one.

    A call never goes past a step that the loop has to stop after. Which steps go together depends on their numbers
    alone, not on where a run was started or continued: floating-point results may depend, in their last digit, on
    what is compiled together. What is left at either side of a stop is made singly, so that there are two programs.

    >>> list(dispatches(0, 11, 4, stops_after=lambda step: step == 6))
    [4, 1, 1, 1, 1, 1, 1, 1]
    >>> list(dispatches(3, 11, 4, stops_after=lambda step: step == 11))
    [1, 4, 1, 1, 1]
    """
    step = first_step
    while step < last_step:
        together = count > 1 and step % count == 0 and step + count <= last_step
        if together and any(stops_after(step + made) for made in range(1, count)):
            together = False
        length = count if together else 1
        yield length
        step += length
