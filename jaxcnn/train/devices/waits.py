"""Record what a process waits for, and end the process if it waits for too long.

A run records each of its waits: for data, for the devices, for other processes, for the disk. The command line calls
`end_when_hung`, which ends the process if a wait lasts too long. Without this call, the recorded waits have no effect.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

HANG_SECONDS = 600
"""Default number of seconds after which a waiting process counts as hung."""

HUNG = 124
"""Exit status of a hung process. The command `timeout` uses the same status."""

FIRST = 6
"""The time limit is longer by this factor for the first wait, in which the dataset is decoded or a step is compiled."""

SLOW = 10
"""The time limit of a wait is at least this factor times the longest earlier wait for the same thing. Steps of some
runs take minutes."""

RELUCTANCE = 5.0
"""Additional seconds that a process waits for other processes, so that the process that hangs ends first."""

POLL_SECONDS = 0.2
FRAMES = 8
"""Number of innermost frames of the Python stack that are printed for a hung process."""


@dataclass
class Wait:
    """A wait of one thread.

    Attributes:
      what: what the thread waits for, such as "training data".
      others: whether the wait may depend on other processes.
      patience: factor by which the time limit of this wait is longer.
      seconds: how long the thread has waited so far.
    """

    what: str
    others: bool
    patience: float
    seconds: float = 0.0


_counted: set[int] = set()
_waits: dict[int, Wait] = {}
_longest: dict[str, float] = {}
"""Seconds of the longest completed wait for each thing, such as "training data"."""


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Apply the time limit to waits of this thread in the `with` block. Waits outside of it have no limit."""
    thread = threading.get_ident()
    _counted.add(thread)
    try:
        yield
    finally:
        _counted.discard(thread)


@contextlib.contextmanager
def waiting(what: str, *, others: bool = False, first: bool = False) -> Iterator[None]:
    """Record that this thread waits in the `with` block. A nested block replaces the outer wait until it ends.

    Args:
      what: what the thread waits for, such as "training data".
      others: whether the wait may depend on other processes.
      first: whether this thread waits for `what` for the first time, which may last longer; see `FIRST`.
    """
    thread = threading.get_ident()
    if thread not in _counted:
        yield
        return
    outer = _waits.get(thread)
    wait = _waits[thread] = Wait(what, others, FIRST if first else 1.0)
    try:
        yield
    finally:
        _longest[what] = max(wait.seconds, _longest.get(what, 0.0))
        if outer is None:
            del _waits[thread]
        else:
            outer.seconds = 0.0
            _waits[thread] = outer


def each(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items, and record a wait for `what` until each item is available."""
    iterator, first = iter(items), True
    while True:
        try:
            with waiting(what, first=first):
                item = next(iterator)
        except StopIteration:
            return
        first = False
        yield item


def end_when_hung(seconds: float, who: str, others: int = 0) -> None:
    """End this process with the exit status `HUNG` if a wait lasts for more than `seconds`.

    Before that, print the Python stack of the waiting thread to standard error, and one line that says what the thread
    waits for.

    Args:
      seconds: time limit of a wait. The limit of a first wait is `FIRST` times longer. The limit of a wait for other
        processes is `RELUCTANCE` seconds longer. The limit of any wait is at least `SLOW` times the longest earlier
        wait for the same thing.
      who: name of this process in the printed line.
      others: number of other processes of the run.
    """

    def watch() -> None:
        while True:
            before = time.monotonic()
            time.sleep(min(POLL_SECONDS, seconds / 4))
            # Do not count time in which this process was paused by a signal.
            passed = min(time.monotonic() - before, 2 * POLL_SECONDS)
            for thread, wait in [*_waits.items()]:
                wait.seconds += passed
                reluctance = RELUCTANCE if wait.others and others else 0.0
                limit = max(seconds * wait.patience, SLOW * _longest.get(wait.what, 0.0))
                if wait.seconds > limit + reluctance:
                    _report(thread, wait, seconds, who, others)
                    os._exit(HUNG)

    threading.Thread(target=watch, name="jaxcnn waits", daemon=True).start()


def _report(thread: int, wait: Wait, seconds: float, who: str, others: int) -> None:
    frame = sys._current_frames().get(thread)
    frames = [] if frame is None else traceback.extract_stack(frame)[-FRAMES:]
    stack = "".join(f"  {entry.filename}:{entry.lineno} in {entry.name}\n" for entry in frames)
    peers = f" (and so for the other {others} processes)" if wait.others and others else ""
    line = f"jaxcnn: {who} has waited {wait.seconds:.0f} s for {wait.what}{peers}: it ends (--hang-timeout {seconds:g})"
    # `print` is not used: the thread that hangs may hold the lock of standard error.
    os.write(2, f"jaxcnn: {who} waits in this call:\n{stack}{line}\n".encode(errors="replace"))
