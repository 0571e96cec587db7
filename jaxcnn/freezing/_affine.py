"""Constant affine maps of each channel: biases, and batch normalization by running statistics."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcnn.freezing._program import KERNEL, Atom, Op, Value, placed, unrepeated
from jaxcnn.kernels.reductions import Affine

LEAST_MERGED = 3
"""Smallest number of consecutive affine maps that are merged into one operation. Sequences that contain an affine
kernel of jaxcnn are always merged."""


@dataclass
class Map:
    """The affine map from `x` to `x * factor + offset`. `factor` and `offset` are float64 arrays `[C]` or `[1]`."""

    factor: np.ndarray
    offset: np.ndarray

    def then(self, other: "Map") -> "Map":
        return Map(self.factor * other.factor, self.offset * other.factor + other.offset)


def of(op: Op, value: Value, uses: Any) -> Map | None:
    """Return the affine map by which `op` computes its output from `value`, or None if `op` is not an affine map."""
    if len(op.outputs) != 1 or not value.shape or op.outputs[0].shape != value.shape:
        return None
    if op.name == KERNEL and isinstance(op.params["kernel"], Affine):
        *vectors, x, center = op.inputs
        if x is not value or not all(isinstance(atom, np.ndarray) for atom in (*vectors, center)):
            return None
        factor, shift, center = (atom.astype(np.float64) for atom in (*vectors, center))
        return _finite(factor, shift - center * factor)
    if op.name not in ("add", "sub", "mul", "div") or len(op.inputs) != 2:
        return None
    first, second = op.inputs
    is_first = first is value
    vector = _vector(second if is_first else first, value, uses)
    if vector is None or (op.name == "div" and not is_first):
        return None
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    with np.errstate(all="ignore"):
        if op.name == "add":
            return _finite(one, vector)
        if op.name == "sub":
            return _finite(one, -vector) if is_first else _finite(-one, vector)
        return _finite(vector if op.name == "mul" else 1 / vector, zero)


def _finite(factor: np.ndarray, offset: np.ndarray) -> Map | None:
    """Return the affine map, or None if a factor or an offset is not finite.

    After merging, a map with such a factor or offset could return different values for finite inputs.
    """
    return Map(factor, offset) if np.isfinite(factor).all() and np.isfinite(offset).all() else None


def _vector(atom: Atom, value: Value, uses: Any) -> np.ndarray | None:
    """Return `atom` as a float64 constant `[C]` or `[1]` for the channels of `value`, or None if this is impossible."""
    if isinstance(atom, Value):  # a constant that is repeated for a batch of unknown size
        op = uses.makers.get(atom)
        if op is None or op.name != "broadcast_in_dim" or not isinstance(op.inputs[0], np.ndarray):
            return None
        atom = placed(op.inputs[0], len(op.params["shape"]), op.params["broadcast_dimensions"])
    if not isinstance(atom, np.ndarray) or not jnp.issubdtype(atom.dtype, jnp.floating):
        return None
    small = unrepeated(atom)
    if small.ndim not in (0, len(value.shape)) or any(size != 1 for size in small.shape[:-1]):
        return None
    return small.astype(np.float64).reshape(-1)


def merged(op: Op, uses: Any, consumed: set[Op]) -> tuple[list[Op], Op | None]:
    """Return the consecutive affine maps that start with `op`, and one operation that replaces these maps.

    If there are too few maps to merge, the function returns an empty list and None.
    """
    values = [atom for atom in op.inputs if isinstance(atom, Value) and of(op, atom, uses) is not None]
    if len(values) != 1:
        return [], None
    (x,) = values
    total, ops, end = of(op, x, uses), [op], op.outputs[0]
    while total is not None and (following := uses.only_reader(end)) is not None and following not in consumed:
        found = of(following, end, uses)
        if found is None or following.outputs[0].dtype != end.dtype:
            break
        total, ops, end = total.then(found), [*ops, following], following.outputs[0]
    if total is None or not (len(ops) >= LEAST_MERGED or any(op.name == KERNEL for op in ops)):
        return [], None
    factor, offset = total.factor.astype(end.dtype), total.offset.astype(end.dtype)
    shape = (1,) * (len(end.shape) - 1) + (-1,)
    factor, offset = factor.reshape(shape), offset.reshape(shape)
    return ops, Op("affine", lambda x: [x.astype(factor.dtype) * factor + offset], [x], [end])
