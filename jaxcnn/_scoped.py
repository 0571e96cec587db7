"""Process-wide changes that end with the block that needs them, whatever other threads do meanwhile."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
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


class _HookFilter:
    """A hook of `sys` that drops some exceptions, in place as long as at least one block needs it.

    Args:
      name: of the hook: "unraisablehook" or "excepthook".
      value_of: returns the exception, given the hook's arguments.
    """

    def __init__(self, name: str, value_of: Callable[..., Any]) -> None:
        self._name, self._value_of, self._default = name, value_of, getattr(sys, f"__{name}__")
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._original: Any = self._default
        self._thread = threading.local()

    def __call__(self, *args: Any) -> None:
        if any(text in str(self._value_of(*args)) for text in self._texts):
            return
        if getattr(self._thread, "is_passing", False):  # the original is a hook that passes everything on to this one
            self._default(*args)
            return
        self._thread.is_passing = True
        try:
            self._original(*args)
        finally:
            self._thread.is_passing = False

    def add(self, text: str) -> None:
        with self._lock:
            current = getattr(sys, self._name)
            if current is not self:  # also if somebody has installed another hook since an earlier block
                self._original = current
                setattr(sys, self._name, self)
            self._texts.append(text)

    def remove(self, text: str) -> None:
        with self._lock:
            self._texts.remove(text)
            # A hook that somebody else has installed since stays; through this one it passes everything on.
            if not self._texts and getattr(sys, self._name) is self:
                setattr(sys, self._name, self._original)


def _filters() -> tuple[_HookFilter, _HookFilter]:
    # Python calls the first for destructors and the like. C++ calls the second for what its callbacks raise.
    unraisable = _HookFilter("unraisablehook", lambda unraisable: unraisable.exc_value)
    return unraisable, _HookFilter("excepthook", lambda kind, value, trace: value)


_hook_filters = _filters()


@contextlib.contextmanager
def ignored_unraisable(text: str) -> Iterator[None]:
    """Drop exceptions that nobody can catch, of destructors and callbacks, if their message contains `text`."""
    filters = _hook_filters
    for hook in filters:
        hook.add(text)
    try:
        yield
    finally:
        for hook in filters:
            hook.remove(text)
