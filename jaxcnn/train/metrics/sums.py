"""Metrics as sums over examples, which add up over devices and batches. Means are taken last.

`sum_over_examples` runs inside the compiled step. `add` and `means` run on the host, in double precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.array_types import AnyArray, Bool
from jaxcnn.errors import UsageError, shortened
from jaxcnn.train.metrics.values import mean

Sums = dict[str, Any]
"""Sums of metrics over examples, by name: scalars, or arrays without the axis of examples."""

EXAMPLES = "examples"
"""Name of the number of examples among the sums. No metric can have it."""


@partial(jax.tree_util.register_dataclass, data_fields=["index"], meta_fields=["shape"])
@dataclass(frozen=True)
class OneHot:
    """A one-hot array `[N, *shape]`, given by the places of its ones. Only its sum over the examples is ever made.

    For example, `OneHot(jnp.stack([labels, predicted], axis=-1), (10, 10))` sums to the confusion matrix of ten
    classes.

    Attributes:
      index: int32 `[N, len(shape)]`. An example whose index is outside of the shape has no one. With more axes,
        `[N, ..., len(shape)]`, an example has several ones, which add up: such as one for each pixel.
      shape: of the array without the example axis.

    >>> labels, predicted = jnp.array([0, 1, 1]), jnp.array([0, 1, 0])
    >>> pairs = OneHot(jnp.stack([labels, predicted], axis=-1), (2, 2))
    >>> sum_over_examples({"confusion": pairs}, jnp.ones(3, bool))["confusion"].tolist()
    [[1, 0], [1, 1]]
    """

    index: jax.Array
    shape: tuple[int, ...]


def sum_over_examples(metrics: Mapping[str, Any], mask: Bool[AnyArray, " n"] | None = None) -> Sums:
    """Return the sum over the examples of each metric, and the number of examples as `examples`, int32.

    Booleans and integers are summed in int32 at least, and floats in float32. Under a mapped axis, the sums are those
    of this device.

    Args:
      metrics: by name, an array `[N, ...]`, a `OneHot`, or a dict of these.
      mask: bool `[N]`, False for padding, whose values are left out even if they are infinite or NaN. All examples
        count if not given.

    Raises:
      UsageError: if a metric has no example axis of length N, or is named `examples`. N is the length of the mask or,
        without one, of most of the metrics.

    >>> values = sum_over_examples({"loss": jnp.array([1.0, 2.0, jnp.inf])}, jnp.array([True, True, False]))
    >>> float(values["loss"]), int(values["examples"])
    (3.0, 2)
    """
    if EXAMPLES in metrics:
        raise UsageError(f"a metric cannot be named {EXAMPLES!r}, which is the number of examples. Rename the metric")
    leaves, structure = jax.tree_util.tree_flatten_with_path(dict(metrics), is_leaf=_is_one_hot)
    values = [value for _, value in leaves]
    length = _number_of_examples(values) if mask is None else mask.shape[0]
    for path, value in leaves:
        _check(_name(path), value, length)
    mask = jnp.ones(length, bool) if mask is None else mask
    sums = [_sum_one_hot(x, mask) if isinstance(x, OneHot) else _sum_array(jnp.asarray(x), mask) for x in values]
    return {**jax.tree.unflatten(structure, sums), EXAMPLES: mask.sum(dtype=jnp.int32)}


def _is_one_hot(value: Any) -> bool:
    return isinstance(value, OneHot)


def _name(path: tuple[Any, ...]) -> str:
    """Return the name of a metric, or of an entry of a metric's dict, such as `per_class.true`."""
    return ".".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)


def _shape(value: Any) -> tuple[int, ...]:
    return jnp.shape(value.index if isinstance(value, OneHot) else value)


def _number_of_examples(values: Sequence[Any]) -> int:
    lengths = [shape[0] for shape in map(_shape, values) if shape]
    return max(lengths, key=lengths.count, default=0)


def _check(name: str, value: Any, length: int) -> None:
    """Raise `UsageError` unless the value is an array, or a `OneHot`, of this number of examples."""
    name = shortened(name)
    if isinstance(value, OneHot):
        wanted = f"an integer index of shape ({length}, ..., {len(value.shape)})"
        shape, dtype = jnp.shape(value.index), jnp.result_type(value.index)
        if len(shape) < 2 or (shape[0], shape[-1]) != (length, len(value.shape)) or not _is_integer(dtype):
            raise UsageError(
                f"metric {name!r} must be one-hot with {wanted} for the shape {value.shape}, "
                f"got {dtype} of shape {shape}. Give the index of the one for each example"
            )
        return
    try:
        shape, dtype = jnp.shape(value), jnp.result_type(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"metric {name!r} must be an array with one value for each example, got {type(value).__name__}. "
            "Return an array [N, ...], a OneHot or a dict of these"
        ) from None
    if shape[:1] != (length,):
        raise UsageError(
            f"metric {name!r} must have one value for each of {length} examples, got {dtype} of shape {shape}. "
            "Return an array [N, ...], and no mean over the batch"
        )


def _is_integer(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)


def _sum_array(values: jax.Array, mask: AnyArray) -> jax.Array:
    # Sums of narrow types would overflow or lose digits.
    least = jnp.float32 if jnp.issubdtype(values.dtype, jnp.inexact) else jnp.int32
    values = values.astype(jnp.promote_types(values.dtype, least) if values.dtype.itemsize < 4 else values.dtype)
    # Padding may be infinite or NaN, and 0 * inf is not 0.
    counted = mask.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(counted, values, jnp.zeros_like(values)).sum(axis=0, dtype=values.dtype)


def _sum_one_hot(one_hot: OneHot, mask: AnyArray) -> jax.Array:
    index, sizes = one_hot.index, jnp.array(one_hot.shape, one_hot.index.dtype)
    inside = ((index >= 0) & (index < sizes)).all(axis=-1)
    counted = inside & mask.reshape(-1, *[1] * (inside.ndim - 1))
    # Indexing would take negative places from the end, so that places outside are replaced.
    places = jnp.where(counted[..., None], index, 0)
    zeros = jnp.zeros(one_hot.shape, jnp.int32)
    return zeros.at[tuple(jnp.moveaxis(places, -1, 0))].add(counted.astype(jnp.int32))


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of metrics fetched from several batches, in double precision.

    Args:
      parts: what `sum_over_examples` returns for each batch, fetched to the host. At least one.

    Returns:
      The same dict, with a float in place of each scalar and a float64 array in place of each array.
    """

    def total(*values: Any) -> Any:
        summed = sum((np.asarray(value, np.float64) for value in values[1:]), start=np.array(values[0], np.float64))
        return float(summed) if np.ndim(summed) == 0 else summed

    return jax.tree.map(total, dict(parts[0]), *map(dict, parts[1:]))


def means(sums: Mapping[str, Any], count: float) -> dict[str, Any]:
    """Return the mean of each metric over `count` examples. The number of examples is left out.

    >>> means({"loss": 3.0, "examples": 2}, 2)
    {'loss': 1.5}
    """
    return {name: mean(value, count) for name, value in sums.items() if name != EXAMPLES}
