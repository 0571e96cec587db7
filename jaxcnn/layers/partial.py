"""Constructors and functions with some of their arguments bound, as values."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError, unknown_name


class Partial(functools.partial):
    """A `functools.partial` that is a value: equal, hashable, and still equal after `pickle` and `copy.deepcopy`.

    `functools.partial` compares by identity, so that `jax.jit` compiles again for the copy of a module with such a
    field. Arguments must be hashable. A constructor is picklable if it is defined at the top level of a file.

    Raises:
      UsageError: `constructor` cannot be called, or a Linen module has no such field (the closest one is suggested).

    >>> from jaxcnn.layers import BatchNorm
    >>> Partial(BatchNorm, epsilon=1e-3) == Partial(BatchNorm, epsilon=1e-3)
    True
    """

    def __new__(cls, constructor: Any, /, *args: Any, **fields: Any) -> "Partial":
        if not callable(constructor):
            raise UsageError(f"not a constructor: {constructor!r}. Give a class or a function.")
        known = module_fields(constructor)
        for field in fields:
            if known is not None and field not in known:
                raise unknown_name(f"field of {_unbound(constructor).__name__}", field, known)
        return super().__new__(cls, constructor, *args, **fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partial):
            return NotImplemented
        return (self.func, self.args, self.keywords) == (other.func, other.args, other.keywords)

    def __hash__(self) -> int:
        return hash((self.func, self.args, frozenset(self.keywords.items())))


def module_fields(constructor: Any) -> list[str] | None:
    """Return the fields of a Linen module's class or a `functools.partial` of it, or None for another constructor."""
    module = _unbound(constructor)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        return None
    return [field.name for field in dataclasses.fields(module) if field.init]  # type: ignore[arg-type]


def _unbound(constructor: Any) -> Any:
    return constructor.func if isinstance(constructor, functools.partial) else constructor
