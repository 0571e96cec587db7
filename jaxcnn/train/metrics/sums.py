"""Sum metrics over examples. The sums of devices and batches can be added, and means are computed at the end.

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
"""Sums of metrics over examples, by name. A sum is a scalar, or an array without the axis of examples."""

EXAMPLES = "examples"
"""Key of the number of examples in `Sums`. A metric cannot have this name."""


@partial(jax.tree_util.register_dataclass, data_fields=["index"], meta_fields=["shape"])
@dataclass(frozen=True)
class OneHot:
    """A one-hot array `[N, *shape]`, stored as the indices of its ones. Only its sum over the examples is computed.

    For example, the sum of `OneHot(jnp.stack([labels, predicted], axis=-1), (10, 10))` over the examples is the
    confusion matrix of ten classes.

    Attributes:
      index: index of the one in each example's array, int32 `[N, len(shape)]`. If the index is outside of the shape,
        the example's array is all zeros. With more axes, `[N, ..., len(shape)]`, an example has several ones, such as
        one for each pixel, and its array is their sum.
      shape: shape of the array without the axis of examples.

    >>> labels, predicted = jnp.array([0, 1, 1]), jnp.array([0, 1, 0])
    >>> pairs = OneHot(jnp.stack([labels, predicted], axis=-1), (2, 2))
    >>> sum_over_examples({"confusion": pairs}, jnp.ones(3, bool))["confusion"].tolist()
    [[1, 0], [1, 1]]
    """

    index: jax.Array
    shape: tuple[int, ...]


def sum_over_examples(metrics: Mapping[str, Any], mask: Bool[AnyArray, " n"] | None = None) -> Sums:
    """Return the sum of each metric over the examples. The entry `examples` is the number of examples, int32.

    Booleans and integers are summed in int32 or a wider dtype, and floats in float32 or a wider dtype. Inside `pmap`
    and `shard_map`, the sums are over the examples of this device.

    Args:
      metrics: dict from the name of each metric to its values: an array `[N, ...]`, a `OneHot`, or a dict of arrays and
        `OneHot`s.
      mask: bool `[N]`, False for padding. Values of padding are ignored, even if they are infinite or NaN. Default: no
        example is padding.

    Raises:
      UsageError: if the leading axis of a metric does not have the length N, or if a metric is named `examples`. N is
        the length of the mask. Without a mask, N is the most frequent length of the metrics.

    >>> values = sum_over_examples({"loss": jnp.array([1.0, 2.0, jnp.inf])}, jnp.array([True, True, False]))
    >>> float(values["loss"]), int(values["examples"])
    (3.0, 2)
    """
    if EXAMPLES in metrics:
        raise UsageError(
            f"a metric cannot be named {EXAMPLES!r}, the key of the number of examples. Rename the metric."
        )
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
    """Return the name of a metric, or the dotted name of an entry of its dict, such as `per_class.support`."""
    return ".".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)


def _shape(value: Any) -> tuple[int, ...]:
    return jnp.shape(value.index if isinstance(value, OneHot) else value)


def _number_of_examples(values: Sequence[Any]) -> int:
    lengths = [shape[0] for shape in map(_shape, values) if shape]
    return max(lengths, key=lengths.count, default=0)


def _check(name: str, value: Any, length: int) -> None:
    """Raise `UsageError` if the value is not an array or a `OneHot` with `length` examples."""
    name = shortened(name)
    if isinstance(value, OneHot):
        wanted = f"an integer index of shape ({length}, ..., {len(value.shape)})"
        shape, dtype = jnp.shape(value.index), jnp.result_type(value.index)
        if len(shape) < 2 or (shape[0], shape[-1]) != (length, len(value.shape)) or not _is_integer(dtype):
            raise UsageError(
                f"metric {name!r} must be one-hot with {wanted} for the shape {value.shape}, "
                f"got {dtype} of shape {shape}. For each example, give the index at which the one-hot array is 1."
            )
        return
    try:
        shape, dtype = jnp.shape(value), jnp.result_type(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"metric {name!r} must be an array with one value for each example, got {type(value).__name__}. "
            "Return an array [N, ...], a OneHot, or a dict of arrays and OneHots."
        ) from None
    if shape[:1] != (length,):
        raise UsageError(
            f"metric {name!r} must have one value for each of {length} examples, got {dtype} of shape {shape}. "
            "Return an array [N, ...], not a mean over the batch."
        )


def _is_integer(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)


def _sum_array(values: jax.Array, mask: AnyArray) -> jax.Array:
    # Sums in 8 or 16 bits would overflow or lose precision.
    least = jnp.float32 if jnp.issubdtype(values.dtype, jnp.inexact) else jnp.int32
    values = values.astype(jnp.promote_types(values.dtype, least) if values.dtype.itemsize < 4 else values.dtype)
    # Padding may be infinite or NaN, and 0 * inf is not 0.
    counted = mask.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(counted, values, jnp.zeros_like(values)).sum(axis=0, dtype=values.dtype)


def _sum_one_hot(one_hot: OneHot, mask: AnyArray) -> jax.Array:
    index, sizes = one_hot.index, jnp.array(one_hot.shape, one_hot.index.dtype)
    inside = ((index >= 0) & (index < sizes)).all(axis=-1)
    counted = inside & mask.reshape(-1, *[1] * (inside.ndim - 1))
    # Replace indices outside of the shape, since a negative index would count from the end.
    places = jnp.where(counted[..., None], index, 0)
    zeros = jnp.zeros(one_hot.shape, jnp.int32)
    return zeros.at[tuple(jnp.moveaxis(places, -1, 0))].add(counted.astype(jnp.int32))


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the metric sums of several batches, in double precision.

    Args:
      parts: one or more dicts that `sum_over_examples` has returned, fetched to the host.

    Returns:
      A dict with the same keys. Each scalar sum is a float, and each array of sums is a float64 array.
    """

    def total(*values: Any) -> Any:
        summed = sum((np.asarray(value, np.float64) for value in values[1:]), start=np.array(values[0], np.float64))
        return float(summed) if np.ndim(summed) == 0 else summed

    return jax.tree.map(total, dict(parts[0]), *map(dict, parts[1:]))


def means(sums: Mapping[str, Any], count: float) -> dict[str, Any]:
    """Return the mean of each metric over `count` examples. The entry `examples` is dropped.

    >>> means({"loss": 3.0, "examples": 2}, 2)
    {'loss': 1.5}
    """
    return {name: mean(value, count) for name, value in sums.items() if name != EXAMPLES}
