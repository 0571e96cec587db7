"""Call a function on the items of an iterable in threads, ahead of the consumer, in order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def map_ahead(function: Callable[[Item], Made], items: Iterable[Item], *, workers: int, ahead: int) -> Iterator[Made]:
    """Yield `function(item)` for each item, in the order of the items.

    Args:
      function: called in a thread. Its exception is raised where its result would have been yielded.
      items: read as they are needed, in the consumer's thread.
      workers: number of threads.
      ahead: maximum number of results that are made before the consumer asks for them.

    >>> list(map_ahead(abs, [-1, 2, -3], workers=2, ahead=2))
    [1, 2, 3]
    """
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the consumer may stop early
            for future in pending:
                future.cancel()
