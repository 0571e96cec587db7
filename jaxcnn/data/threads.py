"""Call a function in one thread per CPU core with bounded memory, and query the cores and the memory of the host."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_AT_ONCE, PIXELS_AT_ONCE = 1024, 1 << 20
"""Maximum number of images, and maximum total number of their pixels, that a thread loads in one call."""

UNKNOWN_SIZE_AT_ONCE = 16
"""Number of images that a thread loads in one call if images differ in size."""

MEMORY_SHARE = 0.3
"""Maximum size of a decoded split that is kept in memory, as a fraction of the memory of the device or the host."""


def map_in_threads(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Call `function` with each item, and yield the results in order.

    For each thread, at most two results are being computed or are waiting for the caller. The remaining calls are
    canceled if the caller stops early or a call raises an error.
    """
    threads = count_cores()
    pending: collections.deque[Future[Value]] = collections.deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="jaxcnn-data")
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def count_at_once(size: tuple[int | None, int | None] | None) -> int:
    """Return the number of images of size `(height, width)` to load in one call. The size None means an unknown size.

    >>> count_at_once((32, 32)), count_at_once((224, 224)), count_at_once(None)
    (1024, 20, 16)
    """
    if size is None or size[0] is None or size[1] is None:
        return UNKNOWN_SIZE_AT_ONCE
    return max(1, min(MAX_AT_ONCE, PIXELS_AT_ONCE // (size[0] * size[1])))


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fits_memory(needed: float, share: float = MEMORY_SHARE) -> bool:
    """Return whether `needed` bytes are at most the fraction `share` of the host's memory.

    Return True if the size of the memory is unknown.
    """
    try:
        return needed <= share * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return True
