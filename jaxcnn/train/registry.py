"""Find registered entries by name, and compare keyword arguments with a function's signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError, shortened, unknown_name

Entry = TypeVar("Entry")

_LARGEST = float(np.finfo(np.float32).max)

# Valid ranges of the keyword arguments of Optax optimizers, by the name of the argument.
_DECAY = ("in [0, 1)", lambda x: 0 <= x < 1)
_SMALL = ("from 0 to 1,000,000", lambda x: 0 <= x <= 1e6)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("b1", "b2", "decay"), _DECAY),
    **dict.fromkeys(("eps", "eps_root", "initial_scale", "initial_accumulator_value", "trust_coefficient"), _SMALL),
    "ns_steps": ("from 1 to 100", lambda x: 1 <= x <= 100),
}


class Registry(dict[str, Entry]):
    """A dict of registered entries of one kind, such as optimizers, by name.

    >>> Registry("color", {"red": 1}).find("rde")
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: unknown color 'rde'; did you mean 'red'?
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.kind = kind

    def find(self, name: str) -> Entry:
        """Return the entry with the name `name`.

        Raises:
          UsageError: if the name is unknown. The error message suggests the closest valid name.
        """
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self[name]


def keywords_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that `function` accepts as keyword arguments, in a dict by name.

    >>> list(keywords_of(lambda x, /, rate=0.1, *, nesterov=False: None))
    ['rate', 'nesterov']
    """
    parameters = inspect.signature(function).parameters
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in by_keyword}


def check_keywords(owner: str, given: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]) -> None:
    """Check names, types and ranges of keyword arguments.

    Args:
      owner: what the keyword arguments belong to, such as "optimizer adam", for error messages.
      given: the keyword arguments to check, by name.
      accepted: the parameters that the function accepts; see `keywords_of`.

    Raises:
      UsageError: if a keyword is unknown, or if a value has a wrong type or is out of range. For an unknown keyword,
        the error message suggests the closest valid keyword.

    >>> check_keywords("optimizer adam", {"b3": 0.9}, keywords_of(lambda b1=0.9, eps=1e-8: None))
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: unknown keyword of optimizer adam 'b3'; did you mean 'b1'?
    """
    for name, value in given.items():
        if name not in accepted:
            raise unknown_name(f"keyword of {owner}", name, accepted)
        choices = get_args(accepted[name].annotation) if get_origin(accepted[name].annotation) is Literal else ()
        if choices:
            if value not in choices:
                raise unknown_name(f"{name} of {owner}", value, choices)
        elif wanted := _type_error(accepted[name], value):
            raise UsageError(f"{name} of {owner} must be {wanted}, got {shortened(repr(value))}")
        elif name in _RANGES and _is_number(value) and not _RANGES[name][1](value):
            raise UsageError(f"{name} of {owner} must be {_RANGES[name][0]}, got {value!r}")


def _type_error(parameter: inspect.Parameter, value: Any) -> str | None:
    """Return the type that a value should have as text, such as "a number". Return None if the value has this type.

    The default value of the parameter shows its type. If the default is None, the annotation shows whether the value is
    a number or a dtype. Optax annotates dtypes as `Any` or as a union with `numpy.dtype`.
    """
    default = parameter.default
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        return None if isinstance(value, int) and not isinstance(value, bool) else "an integer"
    if isinstance(default, float):
        return None if _is_number(value) else "a number"
    if isinstance(default, tuple):
        return None if isinstance(value, tuple) else "a tuple, such as " + repr(default)
    if default is None and float in get_args(parameter.annotation):
        return None if value is None or _is_number(value) else "a number or None"
    if default is None:
        return None if value is None or _is_dtype(value) else "a dtype, such as 'bfloat16', or None"
    return None


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that float32 can represent."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_dtype(value: Any) -> bool:
    """Return whether a value is the name of a floating-point dtype."""
    try:
        return isinstance(value, str) and jnp.issubdtype(np.dtype(value), jnp.floating)
    except (TypeError, ValueError, SyntaxError):  # NumPy parses parts of the text as Python code
        return False
