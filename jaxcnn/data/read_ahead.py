"""Make batches ahead of the step that uses them, and put them on the devices ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Place = Callable[[Any], Any]
"""Function that puts a batch, or a list of the batches of one call, on the devices."""

READ_AHEAD = 2
"""Number of calls of the step whose batches are put on the devices ahead, and of batches that each worker has ready."""


class _Steps:
    """A grain data source whose records are whole batches."""

    def __init__(self, make: Callable[[int], Any], first: int, steps: int):
        self._make, self._first, self._steps = make, first, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._first + int(index))


def read_ahead(make: Callable[[int], Any], first: int, steps: int, workers: int) -> Iterator[Any]:
    """Yield `make(first)`, ..., `make(first + steps - 1)` in order, computed ahead by threads of grain."""
    import grain  # slow to import

    # grain reads one record per call, so its records are batches rather than examples.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=READ_AHEAD * workers)
    return iter(grain.MapDataset.source(_Steps(make, first, steps)).to_iter_dataset(options))


def grouped(batches: Iterator[Any], counts: Iterable[int] | None) -> Iterator[Any]:
    """Yield batches in lists of these lengths, or one by one without `counts`."""
    if counts is None:
        return batches
    return ([next(batches) for _ in range(count)] for count in counts)


def placed(items: Iterator[Any], place: Place | None) -> Iterator[Any]:
    """Yield what `place` makes of each item, calling it `READ_AHEAD` items early: transfers run in the background."""
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
