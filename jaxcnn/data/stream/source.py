"""Open the user's iterators of batches, and save and restore their state."""

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxcnn.data.dataset import first_line
from jaxcnn.data.stream.position import NotJsonError, decode, encode
from jaxcnn.errors import UsageError

STATE_METHODS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
"""Names of the methods that return and restore a state: the methods of grain, and the methods of torchdata."""


class StateError(Exception):
    """An iterator cannot continue from a state. The message is the reason."""


@dataclass(frozen=True)
class Opened:
    """An iterator of batches.

    Attributes:
      batches: the iterator of batches.
    """

    batches: Iterator[Any]
    _get_state: Callable[[], Any] | None = None

    def state(self) -> Any:
        """Return the encoded state of the iterator, or None if the iterator has no state that JSON can store."""
        if self._get_state is None:
            return None
        try:
            return encode(self._get_state())
        except NotJsonError:
            return None


@dataclass(frozen=True)
class Source:
    """The batches of a split, which can be read any number of times.

    Attributes:
      split: "train", "validation" or "test".
      make: iterable of batches, or a function that returns an iterable of batches. The function is called with the
        number of the epoch if its first parameter has no default or is named `epoch`.

    Raises:
      UsageError: if `make` is neither an iterable nor a function, or is an iterator, which can be read only once.
    """

    split: str
    make: Any
    _latest: list[Any] = field(default_factory=list, repr=False, compare=False)  # weak reference to the open iterator

    def __post_init__(self) -> None:
        if isinstance(self.make, Iterator):
            raise UsageError(
                f"{self.split} is an iterator, which can be read only once: {type(self.make).__name__}. "
                "Pass a function that returns a new iterator."
            )
        if isinstance(self.make, (dict, str, bytes)) or not (isinstance(self.make, Iterable) or callable(self.make)):
            raise UsageError(
                f"{self.split} is not an iterator of batches: {type(self.make).__name__}. "
                "Pass a function that returns an iterator of batches, or use from_arrays or from_source."
            )

    def open(self, epoch: int = 0, state: Any = None) -> Opened:
        """Return a new iterator.

        Args:
          epoch: number of the epoch.
          state: encoded state to restore.

        Raises:
          UsageError: if the function returns no iterator, or returns an iterator that it returned before.
          StateError: if the state cannot be set.
        """
        made = self.make if isinstance(self.make, Iterable) else self._call(epoch)
        if not isinstance(made, Iterable):
            raise UsageError(
                f"{self.split} returned no iterator: {type(made).__name__}. Return an iterator of batches."
            )
        methods = None if isinstance(made, Iterator) else _state_methods(made)
        if methods is not None and state is not None:  # a loader, whose next iterator starts from the state
            self._set(methods[1], state)
        iterator = iter(made)
        self._check_new(iterator)
        if methods is None:
            methods = _state_methods(iterator)
            if methods is not None and state is not None:
                self._set(methods[1], state)
        if methods is None and state is not None:
            raise StateError("the iterator no longer has a method that restores its state")
        return Opened(iterator, methods and methods[0])

    def _call(self, epoch: int) -> Any:
        return self.make(epoch) if _takes_epoch(self.make) else self.make()

    def _set(self, set_state: Callable[[Any], None], state: Any) -> None:
        try:
            set_state(decode(state))
        except Exception as error:  # raised by the user's iterator
            raise StateError(f"the iterator does not accept its saved state ({first_line(error)})") from error

    def _check_new(self, iterator: Any) -> None:
        if self._latest and self._latest[0]() is iterator:
            raise UsageError(f"{self.split} returns the same iterator again. Return a new iterator in each call.")
        try:
            self._latest[:] = [weakref.ref(iterator)]
        except TypeError:
            self._latest.clear()


def _takes_epoch(function: Callable[..., Any]) -> bool:
    """Return whether to call a function with the number of the epoch as argument."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # some functions written in C
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # A parameter with a default often captures a variable of the scope of a lambda, as in `lambda data=data:
    # iter(data)`.
    return bool(positional) and (positional[0].default is inspect.Parameter.empty or positional[0].name == "epoch")


def _state_methods(owner: Any) -> tuple[Callable[[], Any], Callable[[Any], None]] | None:
    for get, put in STATE_METHODS:
        if callable(getattr(owner, get, None)) and callable(getattr(owner, put, None)):
            return getattr(owner, get), getattr(owner, put)
    return None
