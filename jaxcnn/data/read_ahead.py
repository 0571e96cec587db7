"""Prepare batches, and transfer them to the devices, before the training step needs them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Place = Callable[[Any], Any]
"""Function that transfers one batch, or all batches of one dispatch of the compiled step, to the devices."""

READ_AHEAD = 2
"""Number of dispatches of the compiled step whose batches are transferred to the devices in advance.

In addition, the prefetch buffer contains up to `READ_AHEAD` finished batches for each worker thread.
"""


class _Steps:
    """A grain data source whose records are whole batches."""

    def __init__(self, make: Callable[[int], Any], first: int, steps: int):
        self._make, self._first, self._steps = make, first, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._first + int(index))


def read_ahead(make: Callable[[int], Any], first: int, steps: int, workers: int) -> Iterator[Any]:
    """Yield `make(first)`, ..., `make(first + steps - 1)` in order, computed in advance by grain's threads."""
    import grain  # slow to import

    # grain reads one record per call, so records that are whole batches need fewer calls than single examples.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=READ_AHEAD * workers)
    return iter(grain.MapDataset.source(_Steps(make, first, steps)).to_iter_dataset(options))


def grouped(batches: Iterator[Any], counts: Iterable[int] | None) -> Iterator[Any]:
    """Yield lists of batches: list number i has `counts[i]` batches. If `counts` is None, yield single batches."""
    if counts is None:
        return batches
    return ([next(batches) for _ in range(count)] for count in counts)


def placed(items: Iterator[Any], place: Place | None) -> Iterator[Any]:
    """Yield `place(item)` for each item.

    `place` is called `READ_AHEAD` items in advance, so that transfers to the devices run in the background.
    """
    if place is None:
        yield from items
        return
    ahead: deque[Any] = deque()
    for item in items:
        ahead.append(place(item))
        if len(ahead) > READ_AHEAD:
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()
