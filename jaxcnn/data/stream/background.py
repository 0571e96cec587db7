"""Run an iterator in a background thread, a bounded number of items ahead."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

THREAD = "jaxcnn-stream"

JOIN_SECONDS = 5.0
"""Seconds that closing waits for the thread, which may be inside the user's iterator."""


def in_background(items: Generator[Item, None, None], ahead: int) -> Iterator[Item]:
    """Yield the items in order, computed up to `ahead` items early in one thread.

    An error is raised after the items before it. The thread starts with the first item that is asked for. It ends with
    the items, with an error, or when this iterator is closed or garbage-collected.
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
        # The thread may wait for room in the queue. It puts at most one more item after this.
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        # A garbage collection in the thread itself may close this iterator.
        if thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)


def _work(items: Generator[Any, None, None], ready: "queue.Queue[tuple[str, Any]]", closed: threading.Event) -> None:
    try:
        for item in items:
            ready.put(("item", item))
            if closed.is_set():
                return
        ready.put(("end", None))
    except BaseException as error:  # raised again where the items are used
        ready.put(("error", error))
    finally:
        items.close()
