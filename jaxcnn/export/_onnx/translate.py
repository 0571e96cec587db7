"""Walk a jaxpr: evaluate constants, expand calls of functions, and add ONNX nodes for all other operations."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from onnx import ModelProto

from jaxcnn.export._onnx import elementwise, shapes, windows
from jaxcnn.export._onnx.graph import Graph, Operation, UnsupportedError, Value, address, outputs_of

OPERATIONS: dict[str, Operation] = {**elementwise.OPERATIONS, **shapes.OPERATIONS, **windows.OPERATIONS}

# Equations that call a function, with the name of the parameter that contains the function.
CALLS = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}

# Operations on constants that NumPy evaluates. JAX would compile a program for each operation and shape.
_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
}


def translate(
    function: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    images: jax.ShapeDtypeStruct,
    *,
    input_name: str,
    output_name: str,
    named: Callable[[], Iterable[tuple[str, np.ndarray]]] = tuple,
) -> ModelProto:
    """Return `function(variables, images)` as an ONNX model of the images. The variables become initializers.

    Args:
      function: a function of variables and images that JAX can trace, with one output.
      variables: variables of the function, as a pytree of arrays.
      images: shape and dtype of the images. The first axis, the batch, may be symbolic.
      input_name: name of the model's input.
      output_name: name of the model's output.
      named: function that returns pairs of a name and an array. An initializer with the data of such an array gets this
        name. The function is called after `function` is traced.

    Raises:
      UnsupportedError: the function has an operation that is not in the tables.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    arrays = [np.asarray(array) for _, array in leaves]
    names = ["/".join(str(getattr(key, "key", key)) for key in path) for path, _ in leaves]
    program = jax.make_jaxpr(function)(variables, images)
    labels = {address(array): name for name, array in [*zip(names, arrays, strict=True), *named()]}
    graph = Graph(input_name, images.shape, images.dtype, labels)
    (output,) = _run(graph, program.jaxpr, program.consts, [*arrays, graph.input])
    (described,) = program.out_avals
    return graph.model(output, output_name, described.dtype)  # type: ignore[attr-defined]


def _run(graph: Graph, program: Jaxpr, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
    """Return the outputs of `program` for `arguments`."""
    values: dict[Any, Value] = dict(zip(program.constvars, map(np.asarray, constants), strict=True))
    values |= zip(program.invars, arguments, strict=True)

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            described: Any = atom.aval
            return np.asarray(atom.val, described.dtype)
        return values[atom]

    for equation in program.eqns:
        outputs = _outputs(graph, equation, [read(atom) for atom in equation.invars])
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in program.outvars]


def _outputs(graph: Graph, equation: JaxprEqn, inputs: list[Value]) -> Sequence[Value]:
    name = equation.primitive.name
    if name in CALLS:
        called = equation.params[CALLS[name]]
        if isinstance(called, ClosedJaxpr):
            return _run(graph, called.jaxpr, called.consts, inputs)
        return _run(graph, called, (), inputs)
    constants = [value for value in inputs if isinstance(value, np.ndarray)]
    if len(constants) == len(inputs) and not _depends_on_the_batch_size(equation):
        return _evaluate(equation, constants)
    if name not in OPERATIONS:
        raise UnsupportedError(f"the operation {name}")
    outputs = OPERATIONS[name](graph, equation, inputs)
    return outputs if isinstance(outputs, list | tuple) else [outputs]  # type: ignore[list-item]


def _depends_on_the_batch_size(equation: JaxprEqn) -> bool:
    """Return whether the outputs of an equation, or their shapes, depend on the batch size."""
    sizes = [size for output in outputs_of(equation) for size in output.shape]
    return equation.primitive.name == "dim_as_value" or not all(isinstance(size, int) for size in sizes)


def _evaluate(equation: JaxprEqn, inputs: list[np.ndarray]) -> list[Value]:
    """Return the outputs of an equation whose inputs are constants."""
    if equation.primitive.name in _NUMPY:
        with np.errstate(all="ignore"):
            outputs = [_NUMPY[equation.primitive.name](*inputs)]
    else:
        outputs = equation.primitive.bind(*inputs, **equation.params)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
    dtypes = [output.dtype for output in outputs_of(equation)]
    return [np.asarray(output, dtype) for output, dtype in zip(outputs, dtypes, strict=True)]
