"""Convert the values of metrics: sums to means, nested dicts to numbers by name, and arrays to lists for JSON."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def mean(sums: Any, count: float) -> Any:
    """Divide sums by the number of examples. Sums are numbers, arrays, or nested dicts. Return NaN for 0 examples."""
    if isinstance(sums, Mapping):
        return {name: mean(value, count) for name, value in sums.items()}
    if not count:
        return np.full(np.shape(sums), np.nan) if np.ndim(sums) else math.nan
    quotient = np.asarray(sums, np.float64) / count
    return float(quotient) if quotient.ndim == 0 else quotient


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of metrics that are single numbers. A number in a metric's dict gets the name `METRIC/NAME`.

    Arrays, lists and None are dropped. Integers, such as a count, stay integers.

    >>> numbers({"loss": 0.5, "per_class": {"macro_f1": 0.25, "f1": [0.5, None]}, "examples": 2000})
    {'loss': 0.5, 'per_class/macro_f1': 0.25, 'examples': 2000}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update({f"{name}/{part}": number for part, number in numbers(value).items()})
        elif isinstance(value, int | float | np.number) or (isinstance(value, np.ndarray) and value.ndim == 0):
            number = np.asarray(value).item()
            found[name] = number if type(number) is int else float(number)
    return found


def as_lists(value: Any) -> Any:
    """Convert all arrays in nested dicts and lists to lists and Python numbers. NaN and infinity are kept.

    Python's `json` can store the result, and `as_arrays` converts the lists back. For other JSON readers, which do not
    accept NaN, use `as_json`.

    >>> as_lists({"matrix": np.eye(2, dtype=int), "f1": (0.5, math.nan)})
    {'matrix': [[1, 0], [0, 1]], 'f1': [0.5, nan]}
    """
    if isinstance(value, Mapping):
        return {name: as_lists(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_lists(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def as_arrays(value: Any) -> Any:
    """Convert lists that `as_lists` has returned back to arrays."""
    if isinstance(value, Mapping):
        return {name: as_arrays(part) for name, part in value.items()}
    return np.array(value) if isinstance(value, list) else value


def as_json(value: Any) -> Any:
    """Convert a metric's value to standard JSON values: arrays become lists, NaN and infinity become None.

    >>> as_json({"matrix": np.eye(2, dtype=int), "f1": [0.5, math.nan]})
    {'matrix': [[1, 0], [0, 1]], 'f1': [0.5, None]}
    """
    value = as_lists(value)
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
