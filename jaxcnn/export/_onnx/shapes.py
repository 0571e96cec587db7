"""Operations that move values: reshape, transpose, slice, pad, concatenate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from onnx import helper

from jaxcnn.export._onnx.elementwise import aligned
from jaxcnn.export._onnx.graph import (
    Graph,
    Operation,
    Order,
    Repeated,
    Tensor,
    UnsupportedError,
    Value,
    dtype_of,
    identity,
    outputs_of,
    shape_of,
)

_TO_THE_START = np.iinfo(np.int64).min  # end of a slice with a negative step that includes the first element


def without(order: Order, axes: Sequence[int]) -> Order:
    """Return the order of a tensor after `axes` of its JAX array are removed.

    >>> without((0, 3, 1, 2), (1, 2))
    (0, 1)
    """
    kept = [axis for axis in range(len(order)) if axis not in axes]
    return tuple(kept.index(axis) for axis in order if axis in kept)


def tensor(graph: Graph, value: Value) -> Tensor:
    """Return `value` as a tensor of the graph; a constant becomes an initializer."""
    if isinstance(value, Tensor):
        return value
    return Tensor(graph.plain(value), value.shape, identity(value.shape))


def _reshape(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    shape = shape_of(equation)
    return graph.add("Reshape", [graph.plain(inputs[0]), graph.target(shape)], shape, identity(shape))


def _broadcast(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Value:
    """Insert axes, then repeat values along axes of size 1."""
    shape, kept = shape_of(equation), equation.params["broadcast_dimensions"]
    operand = inputs[0]
    inserted = [axis for axis in range(len(shape)) if axis not in kept]
    between = tuple(1 if axis in inserted else operand.shape[kept.index(axis)] for axis in range(len(shape)))
    if isinstance(operand, np.ndarray):
        return Repeated(operand.reshape(between), shape)
    if inserted:
        names = [graph.plain(operand), graph.integers(inserted)]
        operand = graph.add("Unsqueeze", names, between, identity(shape))
    operand = tensor(graph, operand)
    if between == shape:
        return operand
    return graph.add("Expand", [graph.plain(operand), graph.sizes(shape)], shape, identity(shape))


def _transpose(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Change the recorded order of axes. A Transpose node is added only if a later operation needs it."""
    operand, permutation = tensor(graph, inputs[0]), equation.params["permutation"]
    return Tensor(operand.name, shape_of(equation), tuple(permutation.index(axis) for axis in operand.order))


def _squeeze(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, axes = tensor(graph, inputs[0]), equation.params["dimensions"]
    names = [operand.name, graph.integers([operand.axis(axis) for axis in axes])]
    return graph.add("Squeeze", names, shape_of(equation), without(operand.order, axes))


def _reverse(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    axes = equation.params["dimensions"]
    return _sliced(graph, tensor(graph, inputs[0]), dict.fromkeys(axes, (-1, _TO_THE_START, -1)), shape_of(equation))


def _slice(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, parameters = tensor(graph, inputs[0]), equation.params
    steps = parameters["strides"] or (1,) * operand.ndim
    bounds = zip(parameters["start_indices"], parameters["limit_indices"], steps, strict=True)
    partial = {
        axis: (start, end, step)
        for axis, (start, end, step) in enumerate(bounds)
        if not (step == 1 and isinstance(start, int) and start == 0 and end == operand.shape[axis])
    }
    return _sliced(graph, operand, partial, shape_of(equation))


def _dynamic_slice(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Slice from constant start positions. As in JAX, a slice that would exceed the array is moved into the array."""
    operand, sizes = tensor(graph, inputs[0]), equation.params["slice_sizes"]
    partial = {}
    for axis, (start, size) in enumerate(zip(inputs[1:], sizes, strict=True)):
        if size == operand.shape[axis]:
            continue
        if not isinstance(start, np.ndarray) or not isinstance(operand.shape[axis], int):
            raise UnsupportedError("a slice whose position depends on the images")
        first = int(np.clip(start, 0, operand.shape[axis] - size))
        partial[axis] = (first, first + size, 1)
    return _sliced(graph, operand, partial, shape_of(equation))


def _sliced(graph: Graph, operand: Tensor, partial: dict[int, tuple[Any, Any, int]], shape: Sequence[Any]) -> Tensor:
    """Slice along axes of the JAX array; `partial` maps each axis to (start, end, step)."""
    if any(not isinstance(number, int) for bounds in partial.values() for number in bounds):
        raise UnsupportedError("a slice of the batch")
    if not partial:
        return operand
    starts, ends, steps = zip(*partial.values(), strict=True)
    axes = [operand.axis(axis) for axis in partial]
    names = [operand.name, *(graph.integers(numbers) for numbers in (starts, ends, axes, steps))]
    return graph.add("Slice", names, shape, operand.order)


def _pad(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, filling = tensor(graph, inputs[0]), inputs[1]
    sides = [equation.params["padding_config"][axis] for axis in operand.order]
    if any(interior for _, _, interior in sides):
        raise UnsupportedError("padding between values")
    pads = [int(low) for low, _, _ in sides] + [int(high) for _, high, _ in sides]
    names = [operand.name, graph.integers(pads), graph.stored(filling, ())]
    return graph.add("Pad", names, shape_of(equation), operand.order, mode="constant")


def _concatenate(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    shape = shape_of(equation)
    names, order = aligned(graph, inputs, len(shape))
    return graph.add("Concat", names, shape, order, axis=order.index(equation.params["dimension"]))


def _stack(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    shape, axis = shape_of(equation), equation.params["axis"]
    between, position = (*shape[:axis], 1, *shape[axis + 1 :]), graph.integers([axis])
    parts = [graph.add("Unsqueeze", [graph.plain(x), position], between, identity(shape)).name for x in inputs]
    return graph.add("Concat", parts, shape, identity(shape), axis=axis)


def _tile(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, repeats = tensor(graph, inputs[0]), equation.params["reps"]
    names = [operand.name, graph.integers([repeats[axis] for axis in operand.order])]
    return graph.add("Tile", names, shape_of(equation), operand.order)


def _split(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> list[Tensor]:
    operand = tensor(graph, inputs[0])
    shapes = [tuple(output.shape) for output in outputs_of(equation)]
    names = [operand.name, graph.integers(equation.params["sizes"])]
    return graph.add_split(names, shapes, operand.order, operand.axis(equation.params["axis"]))


def _batch_size(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Return the batch size as a number."""
    size = graph.sizes([equation.params["dim"]])
    number = graph.add("Squeeze", [size, graph.integers([0])], (), ())
    to = helper.np_dtype_to_tensor_dtype(dtype_of(equation))
    return graph.add("Cast", [number.name], (), (), to=to)


def _gather(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Index at constant positions: a block `x[:, 1:3]`, a grid `x[:, ::2, ::2]` or an element `x[:, 1]`.

    JAX uses gathers to index an array with a symbolic axis.
    """
    operand, positions = tensor(graph, inputs[0]), inputs[1]
    numbers, sizes, shape = equation.params["dimension_numbers"], equation.params["slice_sizes"], shape_of(equation)
    collapsed = tuple(numbers.collapsed_slice_dims)
    if not isinstance(positions, np.ndarray) or numbers.operand_batching_dims:
        raise UnsupportedError("a gather at positions that depend on the images")
    columns = {axis: positions[..., column] for column, axis in enumerate(numbers.start_index_map)}
    blocks = {
        axis: column for axis, column in columns.items() if axis not in collapsed and sizes[axis] != operand.shape[axis]
    }
    grid = _grid([columns[axis] for axis in collapsed]) if set(collapsed) <= set(columns) else None
    gathered = tuple(axis for axis in range(len(shape)) if axis not in numbers.offset_dims)
    if grid is None or gathered != (collapsed if positions.ndim > 1 else ()) or any(np.ptp(x) for x in blocks.values()):
        raise UnsupportedError("a gather of elements that form no block or grid")
    partial = {axis: (int(x.flat[0]), int(x.flat[0]) + sizes[axis], 1) for axis, x in blocks.items()}
    lines = dict(zip(collapsed, grid, strict=True))
    last = {**{axis: end - 1 for axis, (_, end, _) in partial.items()}, **{axis: max(x) for axis, x in lines.items()}}
    if any(x.min() < 0 for x in columns.values()) or any(end >= operand.shape[axis] for axis, end in last.items()):
        raise UnsupportedError("a gather outside of the array")
    between = tuple(sizes[axis] if axis in partial else size for axis, size in enumerate(operand.shape))
    operand = _sliced(graph, operand, partial, between)
    for axis, line in lines.items():
        between = (*between[:axis], len(line), *between[axis + 1 :])
        names = [operand.name, graph.integers(line)]
        operand = graph.add("Gather", names, between, operand.order, axis=operand.axis(axis))
    if positions.ndim > 1 or not collapsed:
        return operand
    names = [operand.name, graph.integers([operand.axis(axis) for axis in collapsed])]
    return graph.add("Squeeze", names, shape, without(operand.order, collapsed))


def _grid(columns: Sequence[np.ndarray]) -> list[list[int]] | None:
    """Return the positions along each axis, or None if the positions in `columns` do not form a grid.

    >>> _grid(np.meshgrid([0, 2], [1, 3, 5], indexing="ij"))
    [[0, 2], [1, 3, 5]]
    """
    if not columns or columns[0].ndim == 0:
        return [[int(column)] for column in columns]
    if columns[0].ndim != len(columns) or columns[0].size == 0:
        return None
    lines = [np.moveaxis(column, axis, 0).reshape(column.shape[axis], -1)[:, 0] for axis, column in enumerate(columns)]
    expected = np.meshgrid(*lines, indexing="ij")
    if not all(map(np.array_equal, columns, expected)):
        return None
    return [line.tolist() for line in lines]


OPERATIONS: dict[str, Operation] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dim_as_value": _batch_size,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
