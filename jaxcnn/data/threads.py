"""Call a function in threads, one per core, with a bounded number of items in memory."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


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


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
