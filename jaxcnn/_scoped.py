"""Context managers for process-wide changes, which several threads may use. A change ends with its `with` block."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def quiet_logger(name: str, level: int) -> Iterator[None]:
    """Drop the log records of the logger `name` that are below `level` while the `with` block runs.

    The level of the logger does not change. Each `with` block adds and removes its own filter, so that blocks of
    several threads may end in any order.
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
    """A hook of `sys` that drops exceptions whose message contains one of the added texts.

    The hook is installed in `sys` while at least one text is added.

    Args:
      name: name of the hook: "unraisablehook" or "excepthook".
      value_of: function that takes the hook's arguments and returns the exception.
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
        if getattr(self._thread, "is_passing", False):  # the original hook calls this hook: avoid endless recursion
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
            if current is not self:  # other code may have installed a hook after the last block
                self._original = current
                setattr(sys, self._name, self)
            self._texts.append(text)

    def remove(self, text: str) -> None:
        with self._lock:
            self._texts.remove(text)
            # If other code has installed a hook meanwhile, that hook stays. When it calls `self`, `self` drops nothing.
            if not self._texts and getattr(sys, self._name) is self:
                setattr(sys, self._name, self._original)


def _filters() -> tuple[_HookFilter, _HookFilter]:
    # Python calls `sys.unraisablehook` for exceptions in destructors. C++ code calls `sys.excepthook` for exceptions in
    # its Python callbacks.
    unraisable = _HookFilter("unraisablehook", lambda unraisable: unraisable.exc_value)
    return unraisable, _HookFilter("excepthook", lambda kind, value, trace: value)


_hook_filters = _filters()


@contextlib.contextmanager
def ignored_unraisable(text: str) -> Iterator[None]:
    """Drop exceptions of destructors and callbacks, which no caller can catch, if their message contains `text`."""
    filters = _hook_filters
    for hook in filters:
        hook.add(text)
    try:
        yield
    finally:
        for hook in filters:
            hook.remove(text)
