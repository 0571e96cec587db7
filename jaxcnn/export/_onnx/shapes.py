"""Operations that move values: reshape, transpose, slice, pad, concatenate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcnn.export._onnx.elementwise import aligned
from jaxcnn.export._onnx.graph import (
    Graph,
    Operation,
    Order,
    Repeated,
    Tensor,
    UnsupportedError,
    Value,
    identity,
    shape_of,
)

_TO_THE_START = np.iinfo(np.int64).min  # end of a slice with a negative step that includes the first element


def without(order: Order, axes: Sequence[int]) -> Order:
    """Return the order of a tensor after these axes of its JAX array are removed.

    >>> without((0, 3, 1, 2), (1, 2))
    (0, 1)
    """
    kept = [axis for axis in range(len(order)) if axis not in axes]
    return tuple(kept.index(axis) for axis in order if axis in kept)


def tensor(graph: Graph, value: Value) -> Tensor:
    """Return the value as a tensor of the graph."""
    if isinstance(value, Tensor):
        return value
    return Tensor(graph.plain(value), value.shape, identity(value.shape))


def _reshape(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    shape = shape_of(equation)
    return graph.add("Reshape", [graph.plain(inputs[0]), _target(graph, shape)], shape, identity(shape))


def _target(graph: Graph, shape: Sequence[Any]) -> str:
    """Return the name of the shape for Reshape, which infers one symbolic size from the number of values."""
    symbolic = [size for size in shape if not isinstance(size, int)]
    if len(symbolic) == 1:
        return graph.integers([size if isinstance(size, int) else -1 for size in shape])
    return graph.sizes(shape)


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
    """Rename the axes. A node is added only where a later operation needs another order."""
    operand, permutation = tensor(graph, inputs[0]), equation.params["permutation"]
    return Tensor(operand.name, shape_of(equation), tuple(permutation.index(axis) for axis in operand.order))


def _squeeze(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, axes = tensor(graph, inputs[0]), equation.params["dimensions"]
    names = [operand.name, graph.integers([operand.axis(axis) for axis in axes])]
    return graph.add("Squeeze", names, shape_of(equation), without(operand.order, axes))


def _reverse(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    axes = equation.params["dimensions"]
    return _sliced(graph, tensor(graph, inputs[0]), dict.fromkeys(axes, (-1, _TO_THE_START, -1)), equation)


def _slice(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    operand, parameters = tensor(graph, inputs[0]), equation.params
    steps = parameters["strides"] or (1,) * operand.ndim
    bounds = zip(parameters["start_indices"], parameters["limit_indices"], steps, strict=True)
    partial = {
        axis: (start, end, step)
        for axis, (start, end, step) in enumerate(bounds)
        if not (step == 1 and isinstance(start, int) and start == 0 and end == operand.shape[axis])
    }
    return _sliced(graph, operand, partial, equation)


def _dynamic_slice(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Slice from constant positions, which JAX moves into the array where the slice would leave it."""
    operand, sizes = tensor(graph, inputs[0]), equation.params["slice_sizes"]
    partial = {}
    for axis, (start, size) in enumerate(zip(inputs[1:], sizes, strict=True)):
        if size == operand.shape[axis]:
            continue
        if not isinstance(start, np.ndarray) or not isinstance(operand.shape[axis], int):
            raise UnsupportedError("a slice whose position depends on the images")
        first = int(np.clip(start, 0, operand.shape[axis] - size))
        partial[axis] = (first, first + size, 1)
    return _sliced(graph, operand, partial, equation)


def _sliced(graph: Graph, operand: Tensor, partial: dict[int, tuple[Any, Any, int]], equation: JaxprEqn) -> Tensor:
    """Slice along axes of the JAX array by (start, end, step)."""
    if any(not isinstance(number, int) for bounds in partial.values() for number in bounds):
        raise UnsupportedError("a slice of the batch")
    if not partial:
        return operand
    starts, ends, steps = zip(*partial.values(), strict=True)
    axes = [operand.axis(axis) for axis in partial]
    names = [operand.name, *(graph.integers(numbers) for numbers in (starts, ends, axes, steps))]
    return graph.add("Slice", names, shape_of(equation), operand.order)


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


def _split(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> list[Tensor]:
    operand = tensor(graph, inputs[0])
    shapes = [tuple(output.aval.shape) for output in equation.outvars]  # type: ignore[attr-defined]
    names = [operand.name, graph.integers(equation.params["sizes"])]
    return graph.add_split(names, shapes, operand.order, operand.axis(equation.params["axis"]))


def _gather(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Take a grid of constant positions, one axis after the other: `x[:, ::2, ::2]` and the like.

    JAX takes a slice with steps of an array with a symbolic axis as such a gather.
    """
    operand, positions = tensor(graph, inputs[0]), inputs[1]
    numbers, shape = equation.params["dimension_numbers"], shape_of(equation)
    axes = tuple(numbers.start_index_map)
    grid = _grid(positions, len(axes)) if isinstance(positions, np.ndarray) else None
    if (
        grid is None
        or tuple(numbers.collapsed_slice_dims) != axes
        or tuple(axis for axis in range(len(shape)) if axis not in numbers.offset_dims) != axes
        or len(shape) != operand.ndim
        or any(not 0 <= min(line) <= max(line) < operand.shape[axis] for axis, line in zip(axes, grid, strict=True))
        or any(size != operand.shape[a] for a, size in enumerate(equation.params["slice_sizes"]) if a not in axes)
    ):
        raise UnsupportedError("gather, except at a constant grid of positions")
    for axis, line in zip(axes, grid, strict=True):
        names = [operand.name, graph.integers(line)]
        size = (*operand.shape[:axis], len(line), *operand.shape[axis + 1 :])
        operand = graph.add("Gather", names, size, operand.order, axis=operand.axis(axis))
    return operand


def _grid(positions: np.ndarray, axes: int) -> list[list[int]] | None:
    """Return the positions along each axis, or None if `positions` `[n_1, ..., n_axes, axes]` are no grid.

    >>> _grid(np.stack(np.meshgrid([0, 2], [1, 3, 5], indexing="ij"), -1), 2)
    [[0, 2], [1, 3, 5]]
    """
    if positions.ndim != axes + 1 or positions.shape[-1] != axes or positions.size == 0:
        return None
    lines = [
        np.moveaxis(positions[..., axis], axis, 0).reshape(positions.shape[axis], -1)[:, 0] for axis in range(axes)
    ]
    if not np.array_equal(np.stack(np.meshgrid(*lines, indexing="ij"), -1), positions):
        return None
    return [line.tolist() for line in lines]


OPERATIONS: dict[str, Operation] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
