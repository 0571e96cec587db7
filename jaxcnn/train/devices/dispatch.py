"""Several training steps in one call of a compiled program.

The host's time for a call does not depend on the device's. If steps are short, the device waits for the host, and
several steps per call keep it busy.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax


def several_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes several steps in a loop on the device: `(state, batches) -> (state, metrics)`.

    Batches and metrics have an axis `[steps]` in front.
    """
    return lambda state, batches: jax.lax.scan(step, state, batches)


def dispatches(first_step: int, last_step: int, count: int, stops_after: Callable[[int], bool]) -> Iterator[int]:
    """Yield the number of steps of each call from `first_step` to `last_step`: `count` or one.

    No call goes past a step that the loop must stop after. The grouping depends on step numbers only, not on where a
    run was started or resumed, since the last bits of results may depend on what is compiled together. Steps between a
    whole group and a stop are made one by one, so that there are only two programs to compile.

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
