"""Positions in a stream of training batches, as JSON values."""

import base64
from dataclasses import dataclass
from typing import Any

BYTES, TUPLE = "__bytes__", "__tuple__"
"""Keys of JSON objects that represent bytes and tuples, because JSON has neither bytes nor tuples."""


class NotJsonError(ValueError):
    """A value cannot be stored as JSON and read back unchanged."""


@dataclass(frozen=True)
class Position:
    """Position of the next example in the batches of an iterator.

    The position consists of the batch that contains the next example, and of the number of examples of this batch that
    were already used.

    Attributes:
      epoch: number of the epoch for which the iterator was opened.
      batches: number of batches of the iterator before the batch with the next example.
      examples: number of examples of the iterator in the batches before the batch with the next example.
      rows: number of used examples in the batch that contains the next example.
      state: encoded state of the iterator before the batch with the next example, or None if the iterator has no state.
    """

    epoch: int
    batches: int = 0
    examples: int = 0
    rows: int = 0
    state: Any = None

    @property
    def read(self) -> int:
        """Number of examples of the iterator that were already used."""
        return self.examples + self.rows


def encode(value: Any) -> Any:
    """Convert a value to a value that JSON can store. Bytes become base64.

    Raises:
      NotJsonError: if the value or a part of the value has a type other than None, bool, int, float, str, bytes, list,
        tuple or dict.

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
    """Convert a result of `encode` back to the original value.

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
