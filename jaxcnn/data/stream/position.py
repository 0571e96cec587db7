"""Places in a stream of training batches, as JSON values."""

import base64
from dataclasses import dataclass
from typing import Any

BYTES, TUPLE = "__bytes__", "__tuple__"
"""Keys of the objects that stand for bytes and tuples, which JSON does not have."""


class NotJsonError(ValueError):
    """A value cannot be stored as JSON and read back unchanged."""


@dataclass(frozen=True)
class Position:
    """Position of the next example in the batches of an iterator.

    A position names a place before that batch and a number of its examples, so that regrouping continues exactly.

    Attributes:
      epoch: number with which the iterator was opened.
      batches: batches of the iterator before that batch.
      examples: examples in these batches.
      rows: examples of that batch that were used.
      state: state of the iterator before that batch, encoded; None if the iterator has no state.
    """

    epoch: int
    batches: int = 0
    examples: int = 0
    rows: int = 0
    state: Any = None

    @property
    def read(self) -> int:
        """Number of used examples of the iterator."""
        return self.examples + self.rows


def encode(value: Any) -> Any:
    """Return a copy of a value that JSON stores. Bytes become base64.

    Raises:
      NotJsonError: if the value, or a part of it, is something else than None, a bool, a number, a string, bytes, or a
        list, a tuple or a dict of these.

    >>> encode({"seen": (3, b"ab")})
    {'seen': {'__tuple__': [3, {'__bytes__': 'YWI='}]}}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is bytes:
        return {BYTES: base64.b64encode(value).decode()}
    if type(value) is list:
        return [encode(part) for part in value]
    if type(value) is tuple:
        return {TUPLE: [encode(part) for part in value]}
    if type(value) is dict and all(type(key) is str for key in value) and BYTES not in value and TUPLE not in value:
        return {key: encode(part) for key, part in value.items()}
    raise NotJsonError(f"not a JSON value: {type(value).__name__}")


def decode(value: Any) -> Any:
    """Return the value that `encode` stored.

    >>> decode(encode({"seen": (3, b"ab")}))
    {'seen': (3, b'ab')}
    """
    if isinstance(value, list):
        return [decode(part) for part in value]
    if isinstance(value, dict) and value.keys() == {BYTES}:
        return base64.b64decode(value[BYTES])
    if isinstance(value, dict) and value.keys() == {TUPLE}:
        return tuple(decode(part) for part in value[TUPLE])
    if isinstance(value, dict):
        return {key: decode(part) for key, part in value.items()}
    return value
