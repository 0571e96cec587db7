"""Process-wide changes that end with the block that needs them, whatever other threads do meanwhile."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_logger(name: str, level: int) -> Iterator[None]:
    """Drop the records of a logger below `level` while the block runs.

    The logger's own level stays. Each block adds and removes a filter of its own, so that blocks of several threads may
    end in any order.
    """

    def is_loud(record: logging.LogRecord) -> bool:
        return record.levelno >= level

    logger = logging.getLogger(name)
    logger.addFilter(is_loud)
    try:
        yield
    finally:
        logger.removeFilter(is_loud)


class _UnraisableFilter:
    """A `sys.unraisablehook` that drops some exceptions, in place as long as at least one block needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._original: Any = sys.__unraisablehook__
        self._thread = threading.local()

    def __call__(self, unraisable: Any) -> None:
        if any(text in str(unraisable.exc_value) for text in self._texts):
            return
        if getattr(self._thread, "is_passing", False):  # the original is a hook that passes everything on to this one
            sys.__unraisablehook__(unraisable)
            return
        self._thread.is_passing = True
        try:
            self._original(unraisable)
        finally:
            self._thread.is_passing = False

    def add(self, text: str) -> None:
        with self._lock:
            if sys.unraisablehook is not self:  # also if somebody has installed another hook since an earlier block
                self._original, sys.unraisablehook = sys.unraisablehook, self
            self._texts.append(text)

    def remove(self, text: str) -> None:
        with self._lock:
            self._texts.remove(text)
            # A hook that somebody else has installed since stays; through this one it passes everything on.
            if not self._texts and sys.unraisablehook is self:
                sys.unraisablehook = self._original


_unraisable_filter = _UnraisableFilter()


@contextlib.contextmanager
def ignored_unraisable(text: str) -> Iterator[None]:
    """Drop exceptions that Python cannot raise, such as those of destructors, if their message contains `text`."""
    _unraisable_filter.add(text)
    try:
        yield
    finally:
        _unraisable_filter.remove(text)
