"""`Partial`: constructors and functions with some arguments bound, which can be compared, hashed and pickled."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError, unknown_name


class Partial(functools.partial):
    """A `functools.partial` that compares by value: objects with equal functions and arguments are equal.

    A `Partial` is hashable, and a copy made by `pickle` or `copy.deepcopy` is equal to the original. Two
    `functools.partial` objects are equal only if they are the same object. If a field of a module were a
    `functools.partial`, `jax.jit` would therefore compile again for a copy of the module. The bound arguments must be
    hashable. A `Partial` can be pickled if its constructor is defined at the top level of a file.

    Raises:
      UsageError: `constructor` is not callable, or a keyword is not a field of the Linen module. The message suggests
        the closest field.

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
    """Return the field names of a Linen module class, or None for other objects.

    A `functools.partial` of a Linen module class counts as this class.
    """
    module = _unbound(constructor)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        return None
    return [field.name for field in dataclasses.fields(module) if field.init]  # type: ignore[arg-type]


def _unbound(constructor: Any) -> Any:
    return constructor.func if isinstance(constructor, functools.partial) else constructor
