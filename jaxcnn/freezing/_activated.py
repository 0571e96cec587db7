"""Operations that are computed together with the 1x1 convolution after them: concatenation, affine map, and ReLU."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.freezing import _affine
from jaxcnn.freezing._program import Op, Value
from jaxcnn.kernels.convolution import Geometry


@dataclass
class Activation:
    """Operations before a 1x1 convolution: `relu(concatenate(maps) * factor + offset)`.

    Attributes:
      maps: feature maps `[N, H, W, C_i]` to concatenate along the channels.
      factor: factor of each channel, `[C]` in float64.
      offset: offset of each channel, `[C]` in float64.
      ops: the affine maps and the ReLU, whose results no other operation reads. Concatenations are not included, since
        other operations may read them.
    """

    maps: list[Value]
    factor: np.ndarray
    offset: np.ndarray
    ops: list[Op]


def of(geometry: Geometry, x: Value, uses: Any, consumed: set[Op]) -> Activation | None:
    """Return the operations before a convolution of `x` that can be computed together with the convolution, or None."""
    is_plain = geometry.kernel[:2] == (1, 1) and geometry.strides == (1, 1) and geometry.groups == 1
    relu = uses.makers.get(x)
    if not is_plain or any(map(any, geometry.padding)) or relu is None or relu.name != "relu" or relu in consumed:
        return None
    if uses.only_reader(x) is None or relu.outputs[0].dtype != relu.inputs[0].dtype:
        return None
    ops, total, value = [relu], None, relu.inputs[0]
    while (op := uses.makers.get(value)) is not None and op not in consumed and uses.only_reader(value) is not None:
        found = [(atom, _affine.of(op, atom, uses)) for atom in op.inputs if isinstance(atom, Value)]
        found = [(atom, part) for atom, part in found if part is not None and atom.dtype == value.dtype]
        if len(found) != 1:
            break
        value, part = found[0]
        total = part if total is None else part.then(total)
        ops.append(op)
    if total is None:
        return None
    ones = np.ones(x.shape[3])
    return Activation(_maps(value, uses), total.factor * ones, total.offset * ones, ops)


def _maps(value: Value, uses: Any) -> list[Value]:
    """Return the values whose concatenation along the channels is `value`."""
    op = uses.makers.get(value)
    is_joined = op is not None and op.name == "concatenate" and op.params["dimension"] == len(value.shape) - 1
    if op is None or not is_joined or not all(isinstance(atom, Value) for atom in op.inputs):
        return [value]
    return [part for atom in op.inputs for part in _maps(atom, uses)]
