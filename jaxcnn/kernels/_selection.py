"""Selection of the kernels that a program uses, by an environment variable or a context manager."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import jax

from jaxcnn.errors import unknown_name
from jaxcnn.kernels import native

Choice = Literal["auto", "xla", "native"]
CHOICES: tuple[Choice, ...] = ("auto", "xla", "native")
"""Values of `JAXCNN_KERNELS` and of `use`."""

VARIABLE = "JAXCNN_KERNELS"
"""Environment variable that selects the kernels of the whole process: auto (the default), xla or native."""

_INLINED = "inlined"

# A user context is part of the keys of JAX's caches: functions are compiled again when its value changes.
_context = jax.make_user_context(None)


def selected() -> str:
    """Return the current choice: the argument of the innermost `use`, else the value of `JAXCNN_KERNELS`, else "auto".

    Raises:
      UsageError: `JAXCNN_KERNELS` has an unknown value.

    >>> selected() in CHOICES
    True
    """
    return _context.value or _checked(os.environ.get(VARIABLE, "auto").lower())


@contextlib.contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Select the kernels of the programs that are traced and compiled within the context.

    "auto" uses native kernels on a CPU if `pip install 'jaxcnn[cpu]'` and a C++ compiler provide them. "xla" uses only
    operations of XLA. "native" is like "auto", but raises an error if there are no native kernels.

    Raises:
      UsageError: `choice` is unknown, or is "native" and there are no native kernels.

    >>> with use("xla"):
    ...     selected()
    'xla'
    """
    if _checked(choice) == "native":
        native.require()
    with _context(choice):
        yield


@contextlib.contextmanager
def inlined() -> Iterator[None]:
    """Trace kernels as the JAX operations that define them, which exporters and readers of the jaxpr then see.

    >>> with inlined():
    ...     is_inlined()
    True
    """
    with _context(_INLINED):
        yield


def is_inlined() -> bool:
    return _context.value == _INLINED


def check() -> None:
    """Raise `UsageError` if the choice is unknown, or is "native" and there are no native kernels.

    >>> with use("auto"):
    ...     check()
    """
    if selected() == "native":
        native.require()


def uses_native() -> bool:
    """Return whether programs for a CPU call the native library. The first call of this function builds the library.

    Raise `UsageError` in the same cases as `check`.
    """
    check()
    return selected() in ("auto", "native") and native.is_available()


def in_use() -> str:
    """Return the kernels that programs compiled now use: "native" (oneDNN and the native library) or "xla".

    Raises:
      UsageError: the choice is unknown, or is "native" and there are no native kernels.

    >>> with use("xla"):
    ...     in_use()
    'xla'
    """
    return "native" if on_cpu() and uses_native() else "xla"


def on_cpu() -> bool:
    """Return whether JAX places new computations on a CPU.

    JAX uses the default device; if no default device is set, JAX uses the default backend.

    >>> with jax.default_device(jax.devices("cpu")[0]):
    ...     on_cpu()
    True
    """
    device = jax.config.values["jax_default_device"]
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


def _checked(choice: str) -> str:
    if choice not in CHOICES:
        raise unknown_name(f"choice of kernels ({VARIABLE})", choice, CHOICES)
    return choice
