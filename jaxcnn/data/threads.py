"""Cores and memory of the host: call a function in threads, one per core, with bounded memory."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_AT_ONCE, PIXELS_AT_ONCE = 1024, 1 << 20
"""Maximum number of images, and of their pixels, that a thread loads at once."""

UNKNOWN_SIZE_AT_ONCE = 16
"""Number of images that a thread loads at once if images differ in size."""

MEMORY_SHARE = 0.3
"""Largest fraction of a device's or the host's memory that a decoded split may take to be kept there."""


def map_in_threads(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Call `function` with each item, and yield the results in order.

    At most two items per thread are in progress or wait for the caller. If the caller stops early, or a call raises,
    the remaining calls are canceled.
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
    """Return how many images of a height and width to load in one call.

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
    """Return whether `needed` bytes are a small enough part of the host's memory; True if its size is unknown."""
    try:
        return needed <= share * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return True
