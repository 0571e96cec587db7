"""Elementwise operations. The output has the same order of axes as the inputs."""

from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn
from onnx import helper

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
    shape_of,
)


def aligned(graph: Graph, values: list[Value], rank: int) -> tuple[list[str], Order]:
    """Return the names of `values` with their axes in a common order, and this order.

    The order is taken from the first tensor whose axes are ordered differently from its JAX array. Scalars have no
    order.
    """
    orders = [value.order for value in values if isinstance(value, Tensor) and value.ndim == rank]
    order = next((order for order in orders if order != identity(order)), tuple(range(rank)))
    return [graph.stored(value, order if value.ndim else ()) for value in values], order


def _node(kind: str) -> Operation:
    """Return an operation that adds one ONNX node of type `kind`."""

    def write(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
        return _add(graph, kind, equation, inputs)

    return write


def _chain(first: str, second: str) -> Operation:
    """Return an operation that adds two ONNX nodes; the output of the first node is the input of the second node."""

    def write(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
        inner = _add(graph, first, equation, inputs)
        return graph.add(second, [inner.name], inner.shape, inner.order)

    return write


def _add(graph: Graph, kind: str, equation: JaxprEqn, inputs: list[Value], **attributes: int) -> Tensor:
    shape = shape_of(equation)
    names, order = aligned(graph, _compact(inputs, shape), len(shape))
    return graph.add(kind, names, shape, order, **attributes)


def _compact(inputs: list[Value], shape: tuple[Any, ...]) -> list[Value]:
    """Return the inputs, with each repeated constant replaced by the constant before its repetition.

    Constants are replaced only if an input is a tensor of shape `shape`. ONNX itself repeats them to this shape.
    """
    if any(isinstance(value, Tensor) and value.shape == shape for value in inputs):
        return [value.array if isinstance(value, Repeated) else value for value in inputs]
    return inputs


def _constant(equation: JaxprEqn, number: float) -> np.ndarray:
    """Return `number` as a scalar with the dtype of the equation's output."""
    return np.array(number, dtype_of(equation))


def _sub(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Subtract. A constant is negated and added, because runtimes merge additions into the convolution before them."""
    first, second = _compact(inputs, shape_of(equation))
    if isinstance(second, np.ndarray) and second.dtype.kind == "f":
        return _add(graph, "Add", equation, [first, np.negative(second, out=np.empty_like(second))])
    return _add(graph, "Sub", equation, inputs)


def _max(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Return the larger value. A maximum with 0 becomes a Relu, which runtimes merge into the convolution before it."""
    first, second = inputs
    if isinstance(second, np.ndarray) and second.dtype.kind == "f" and not second.any():
        return _add(graph, "Relu", equation, [first])
    return _add(graph, "Max", equation, inputs)


def _square(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _add(graph, "Mul", equation, [inputs[0], inputs[0]])


def _integer_pow(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    if equation.params["y"] == 2:
        return _square(graph, equation, inputs)
    return _add(graph, "Pow", equation, [inputs[0], _constant(equation, equation.params["y"])])


def _exp2(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _add(graph, "Pow", equation, [_constant(equation, 2), inputs[0]])


def _log1p(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _add(graph, "Log", equation, [_add(graph, "Add", equation, [inputs[0], _constant(equation, 1)])])


def _expm1(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _add(graph, "Sub", equation, [_add(graph, "Exp", equation, inputs), _constant(equation, 1)])


def _erfc(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    return _add(graph, "Sub", equation, [_constant(equation, 1), _add(graph, "Erf", equation, inputs)])


def _clamp(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    lowest, values, highest = inputs
    return _add(graph, "Min", equation, [_add(graph, "Max", equation, [values, lowest]), highest])


def _rem(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Return the remainder of a division, with the sign of the dividend."""
    return _add(graph, "Mod", equation, inputs, fmod=1)


def _round(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UnsupportedError("rounding away from zero")
    return _add(graph, "Round", equation, inputs)


def _select(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    """Choose between two values by a condition. JAX lists the value for False first, ONNX the value for True."""
    condition, if_false, if_true = inputs
    return _add(graph, "Where", equation, [condition, if_true, if_false])


def _convert(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Tensor:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return _add(graph, "Cast", equation, inputs, to=kind)


def _unchanged(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return inputs


OPERATIONS: dict[str, Operation] = {
    "abs": _node("Abs"),
    "add": _node("Add"),
    "and": _node("And"),
    "ceil": _node("Ceil"),
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _unchanged,
    "cos": _node("Cos"),
    "div": _node("Div"),
    "eq": _node("Equal"),
    "erf": _node("Erf"),
    "erfc": _erfc,
    "exp": _node("Exp"),
    "exp2": _exp2,
    "expm1": _expm1,
    "floor": _node("Floor"),
    "ge": _node("GreaterOrEqual"),
    "gt": _node("Greater"),
    "integer_pow": _integer_pow,
    "le": _node("LessOrEqual"),
    "log": _node("Log"),
    "log1p": _log1p,
    "logistic": _node("Sigmoid"),
    "lt": _node("Less"),
    "max": _max,
    "min": _node("Min"),
    "mul": _node("Mul"),
    "name": _unchanged,
    "ne": _chain("Equal", "Not"),
    "neg": _node("Neg"),
    "not": _node("Not"),
    "optimization_barrier": _unchanged,
    "or": _node("Or"),
    "pow": _node("Pow"),
    "rem": _rem,
    "round": _round,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "select_n": _select,
    "sign": _node("Sign"),
    "sin": _node("Sin"),
    "sqrt": _node("Sqrt"),
    "square": _square,
    "stop_gradient": _unchanged,
    "sub": _sub,
    "tanh": _node("Tanh"),
}
