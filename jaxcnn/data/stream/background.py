"""Run an iterator in a background thread, a bounded number of items ahead."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

THREAD = "jaxcnn-stream"

JOIN_SECONDS = 5.0
"""Maximum number of seconds to wait for the background thread to end. The thread may be busy in the user's iterator."""


def in_background(items: Generator[Item, None, None], ahead: int) -> Iterator[Item]:
    """Yield the items in order. A background thread computes up to `ahead` items in advance.

    An error in `items` is raised after all earlier items are yielded. The thread starts when the first item is
    requested. The thread ends after the last item, after an error, or when this iterator is closed or
    garbage-collected.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
    closed = threading.Event()
    thread = threading.Thread(target=_work, args=(items, ready, closed), name=THREAD, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        closed.set()
        # The thread may be waiting for room in the queue. Empty the queue; then the thread adds at most one more item.
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        # A thread cannot join itself: a garbage collection in the background thread may close this iterator.
        if thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)


def _work(items: Generator[Any, None, None], ready: "queue.Queue[tuple[str, Any]]", closed: threading.Event) -> None:
    try:
        for item in items:
            ready.put(("item", item))
            if closed.is_set():
                return
        ready.put(("end", None))
    except BaseException as error:  # raised again in the thread that uses the items
        ready.put(("error", error))
    finally:
        items.close()
