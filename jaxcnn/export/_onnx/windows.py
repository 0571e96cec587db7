"""Convolutions, poolings, matrix products and reductions."""

import math
from string import ascii_lowercase
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from onnx import helper

from jaxcnn.export._onnx.graph import (
    Graph,
    Operation,
    Order,
    Tensor,
    UnsupportedError,
    Value,
    dtype_of,
    identity,
    shape_of,
)
from jaxcnn.export._onnx.shapes import tensor, without


def _conv(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    parameters, axes = equation.params, equation.params["dimension_numbers"]
    if parameters["batch_group_count"] != 1 or any(d != 1 for d in parameters["lhs_dilation"]):
        raise UnsupportedError("a transposed convolution")
    names = [graph.stored(inputs[0], tuple(axes.lhs_spec)), graph.stored(inputs[1], tuple(axes.rhs_spec))]
    return graph.add(
        "Conv",
        names,
        shape_of(equation),
        tuple(axes.out_spec),
        strides=list(parameters["window_strides"]),
        dilations=list(parameters["rhs_dilation"]),
        pads=_pads(parameters["padding"]),
        group=parameters["feature_group_count"],
    )


def _max_pool(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _pool(graph, equation, inputs, "MaxPool", -math.inf, dilations=equation.params["window_dilation"])


def _sum_pool(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Sum over windows: multiply the average by the size of the window. Padding counts as zeros."""
    if any(d != 1 for d in equation.params["window_dilation"]):
        raise UnsupportedError("a sum over windows with dilation")
    mean = _pool(graph, equation, inputs, "AveragePool", 0.0, count_include_pad=1)
    size = np.array(math.prod(equation.params["window_dimensions"]), dtype_of(equation))
    return graph.add("Mul", [mean.name, graph.stored(size, ())], mean.shape, mean.order)


def _pool(
    graph: Graph,
    equation: JaxprEqn,
    inputs: list[Value],
    kind: str,
    filling: float,
    dilations: tuple[int, ...] | None = None,
    **attributes: Any,
) -> Tensor:
    """Pool over two axes of images `[N, C, H, W]`, or over all axes (at most three) after the batch axis.

    Args:
      graph: the ONNX graph to which nodes are added.
      equation: a `reduce_window` equation.
      inputs: the operand of the equation.
      kind: type of the ONNX node.
      filling: value with which the array is padded.
      dilations: distance between the elements of a window along each axis; None for nodes without the attribute
        `dilations`.
      attributes: further attributes of the node.
    """
    parameters, shape = equation.params, shape_of(equation)
    window, strides, padding = parameters["window_dimensions"], parameters["window_strides"], parameters["padding"]
    order, spatial = _axes_of_windows(equation, inputs[0])
    name = graph.stored(inputs[0], order)
    inserts_channels = len(spatial) == len(order) - 1
    if inserts_channels:
        name = graph.add("Unsqueeze", [name, graph.integers([1])], shape, order).name
    sides = [tuple(map(int, padding[axis])) for axis in spatial]
    if any(side >= window[axis] for axis, pair in zip(spatial, sides, strict=True) for side in pair):
        # ONNX Runtime accepts only padding that is smaller than the window.
        pads = [0, 0, *(low for low, _ in sides), 0, 0, *(high for _, high in sides)]
        value = graph.stored(np.array(filling, dtype_of(equation)), ())
        name = graph.add("Pad", [name, graph.integers(pads), value], shape, order, mode="constant").name
        sides = [(0, 0)] * len(sides)
    if dilations is not None:
        attributes["dilations"] = [dilations[axis] for axis in spatial]
    pooled = graph.add(
        kind,
        [name],
        shape,
        order,
        kernel_shape=[window[axis] for axis in spatial],
        strides=[strides[axis] for axis in spatial],
        pads=_pads(sides),
        **attributes,
    )
    return graph.add("Squeeze", [pooled.name, graph.integers([1])], shape, order) if inserts_channels else pooled


def _axes_of_windows(equation: JaxprEqn, operand: Value) -> tuple[Order, list[int]]:
    """Return the order of axes of the pooling node's input, and the axes of the JAX array over which the node pools.

    If exactly two axes of an image have windows, the node pools over these two axes, which come last in the order. In
    all other cases, the node pools over all axes after the batch.
    """
    parameters, rank = equation.params, len(shape_of(equation))
    windows = zip(
        parameters["window_dimensions"], parameters["window_strides"], map(tuple, parameters["padding"]), strict=True
    )
    moved = [axis for axis, window in enumerate(windows) if window != (1, 1, (0, 0))]
    order = operand.order if isinstance(operand, Tensor) else tuple(range(rank))
    flat = rank == 4 and len(moved) == 2
    if (
        0 in moved
        or any(dilation != 1 for dilation in parameters["base_dilation"])
        or dtype_of(equation).kind != "f"
        or not (flat or (order[0] == 0 and rank <= 4))
    ):
        size, strides = parameters["window_dimensions"], parameters["window_strides"]
        raise UnsupportedError(f"pooling with a window {size} and strides {strides}")
    if flat:
        return (*(axis for axis in range(rank) if axis not in moved), *moved), moved
    return order, list(order[1:])


def _dot(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Add a MatMul node for a product of matrices, and an Einsum node for all other contractions of tensors."""
    (left_axes, right_axes), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = inputs
    shape = shape_of(equation)
    operands: list[Any] = [variable.aval for variable in equation.invars]
    if any(operand.dtype != dtype_of(equation) for operand in operands):
        raise UnsupportedError("a product of matrices with a result of another type")
    if not left_batch and tuple(left_axes) == (left.ndim - 1,) and right.ndim == 2:
        rows_first = (0, 1) if tuple(right_axes) == (0,) else (1, 0)
        return graph.add("MatMul", [graph.plain(left), graph.stored(right, rows_first)], shape, identity(shape))
    letters = iter(ascii_lowercase)
    left_letters = [next(letters) for _ in range(left.ndim)]
    right_letters = [next(letters) for _ in range(right.ndim)]
    for a, b in zip((*left_axes, *left_batch), (*right_axes, *right_batch), strict=True):
        right_letters[b] = left_letters[a]
    kept = [left_letters[axis] for axis in left_batch]
    kept += [letter for axis, letter in enumerate(left_letters) if axis not in (*left_axes, *left_batch)]
    kept += [letter for axis, letter in enumerate(right_letters) if axis not in (*right_axes, *right_batch)]
    formula = f"{''.join(left_letters)},{''.join(right_letters)}->{''.join(kept)}"
    return graph.add("Einsum", [graph.plain(left), graph.plain(right)], shape, identity(shape), equation=formula)


def _reduction(kind: str) -> Operation:
    """Return an operation that reduces an array over axes and removes these axes."""

    def write(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
        operand, axes = tensor(graph, inputs[0]), equation.params["axes"]
        names = [operand.name, graph.integers([operand.axis(axis) for axis in axes])]
        return graph.add(kind, names, shape_of(equation), without(operand.order, axes), keepdims=0)

    return write


def _position(kind: str) -> Operation:
    """Return an operation that finds the position of the largest or smallest value along an axis."""

    def write(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
        operand, (axis,) = tensor(graph, inputs[0]), equation.params["axes"]
        order = without(operand.order, [axis])
        found = graph.add(kind, [operand.name], shape_of(equation), order, axis=operand.axis(axis), keepdims=0)
        to = helper.np_dtype_to_tensor_dtype(dtype_of(equation))
        return graph.add("Cast", [found.name], found.shape, order, to=to)

    return write


def _pads(sides: Any) -> list[int]:
    """Return the padding in the order of ONNX: first before all axes, then after all axes."""
    return [int(low) for low, _ in sides] + [int(high) for _, high in sides]


OPERATIONS: dict[str, Operation] = {
    "argmax": _position("ArgMax"),
    "argmin": _position("ArgMin"),
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
}
