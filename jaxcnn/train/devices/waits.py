"""Record what a process waits for, and end the process if it waits for too long.

A run names each of its waits: for data, for the devices, for other processes, for the disk. That alone does nothing.
`end_when_hung`, which the command line calls, watches them.
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
"""Default number of seconds after which a wait counts as endless."""

HUNG = 124
"""Exit status of a process that waited for too long, as that of `timeout`."""

FIRST = 6
"""Factor of the time of a first wait: for data that is decoded as a whole, and for a step that compiles."""

SLOW = 10
"""A wait counts as endless only after this many times the longest earlier wait for the same thing. Steps of some runs
take minutes."""

RELUCTANCE = 5.0
"""Seconds that a process waits longer for others, so that the one for which all wait ends first."""

POLL_SECONDS = 0.2
FRAMES = 8
"""Number of innermost frames of the Python stack that are printed."""


@dataclass
class Wait:
    """A wait of one thread.

    Attributes:
      what: what the thread waits for.
      others: whether other processes may be the reason.
      patience: factor of the time after which it counts as endless.
      seconds: how long it has lasted.
    """

    what: str
    others: bool
    patience: float
    seconds: float = 0.0


_counted: set[int] = set()
_waits: dict[int, Wait] = {}
_longest: dict[str, float] = {}
"""Seconds of the longest wait that has ended, by what was waited for."""


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Count the waits of this thread in the block. Outside, such as while data is prepared, they have no limit."""
    thread = threading.get_ident()
    _counted.add(thread)
    try:
        yield
    finally:
        _counted.discard(thread)


@contextlib.contextmanager
def waiting(what: str, *, others: bool = False, first: bool = False) -> Iterator[None]:
    """Name what this thread waits for in the block. An inner wait takes the place of an outer one."""
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
    """Yield the items, and name what is waited for until each of them is there."""
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
    """End this process with the status `HUNG` once a wait lasts for more than `seconds`.

    The Python stack of the waiting thread, and one line that says who waits for what, go to standard error.

    Args:
      seconds: the longest wait. A first wait may last `FIRST` times as long, one for other processes `RELUCTANCE` more,
        and any wait `SLOW` times as long as an earlier one for the same thing.
      who: name of this process in the line.
      others: number of other processes of the run.
    """

    def watch() -> None:
        while True:
            before = time.monotonic()
            time.sleep(min(POLL_SECONDS, seconds / 4))
            # A process that was stopped meanwhile has not waited.
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
    # Not by print: the thread that hangs may hold the lock of standard error.
    os.write(2, f"jaxcnn: {who} waits in this call:\n{stack}{line}\n".encode(errors="replace"))
