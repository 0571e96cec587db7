"""Make several training steps in one dispatch of a compiled program.

The host needs some time for each dispatch, however short the steps are. If steps are very short, the device has to wait
for the host. Several steps per dispatch keep the device busy.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax


def several_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes several steps in a loop on the device: `(state, batches) -> (state, metrics)`.

    Batches and metrics have a leading axis `[steps]`.
    """
    return lambda state, batches: jax.lax.scan(step, state, batches)


def dispatches(first_step: int, last_step: int, count: int, stops_after: Callable[[int], bool]) -> Iterator[int]:
    """Yield the number of steps of each dispatch, `count` or 1, for the steps from `first_step` to `last_step`.

    A dispatch ends at each step for which `stops_after` returns True. Steps that do not fill a whole group of `count`
    steps are dispatched one by one, so that only two programs are compiled. The grouping depends only on step numbers,
    and not on the step at which a run was resumed, since the grouping may change the last bits of the parameters.

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
