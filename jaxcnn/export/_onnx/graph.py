"""An ONNX graph under construction, and the order of axes of its tensors.

ONNX convolves and pools images `[N, C, H, W]`; JAX programs of this library use `[N, H, W, C]`. A tensor therefore
records the order of its axes: for each axis of the tensor, the index of this axis in the JAX array. Elementwise
operations keep the order of their inputs. As a result, a network transposes its images once at the start and its
feature maps once at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from onnx import ModelProto, TensorProto, helper, numpy_helper

from jaxcnn.version import __version__

# Version 18 of the ONNX operators (December 2022), and version 8 of the file format, from the same release.
OPERATORS, FORMAT = 18, 8

Order = tuple[int, ...]


class UnsupportedError(Exception):
    """A part of the program that this exporter cannot express in ONNX."""


@dataclass(frozen=True)
class Tensor:
    """An array that the ONNX graph computes.

    Attributes:
      name: name of the tensor in the graph.
      shape: shape of the JAX array. The batch axis is symbolic.
      order: for each axis of the tensor, the index of this axis in the JAX array. An array `[N, H, W, C]` stored as
        `[N, C, H, W]` has (0, 3, 1, 2).
    """

    name: str
    shape: tuple[Any, ...]
    order: Order

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def axis(self, axis: int) -> int:
        """Return the index that axis `axis` of the JAX array has in the tensor."""
        return self.order.index(axis)


@dataclass(frozen=True)
class Repeated:
    """A constant that is repeated for each image of a batch of unknown size.

    ONNX itself repeats the operands of elementwise operations. Other operations need a node that repeats the constant.

    Attributes:
      array: the constant. Each axis of the constant has size 1, or the same size as in `shape`.
      shape: shape of the JAX array, which is the constant after the repetition.
    """

    array: np.ndarray
    shape: tuple[Any, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)


Value = Tensor | Repeated | np.ndarray
"""A tensor of the graph, or a constant."""

Operation = Callable[["Graph", JaxprEqn, list[Value]], Value | Sequence[Value]]
"""A function that adds the nodes for one equation of a jaxpr to the graph, and returns the outputs of the equation."""


def identity(shape: Sequence[Any]) -> Order:
    """Return the order of a tensor whose axes are ordered as in its JAX array."""
    return tuple(range(len(shape)))


def address(array: np.ndarray) -> int:
    """Return the address of the array's data. A view that starts at the same element has the same address."""
    return array.ctypes.data


def outputs_of(equation: JaxprEqn) -> list[Any]:
    """Return the abstract values of the outputs of an equation, which have a shape and a dtype."""
    return [variable.aval for variable in equation.outvars]


def shape_of(equation: JaxprEqn) -> tuple[Any, ...]:
    """Return the shape of the first output of an equation."""
    return tuple(outputs_of(equation)[0].shape)


def dtype_of(equation: JaxprEqn) -> np.dtype:
    """Return the dtype of the first output of an equation."""
    return np.dtype(outputs_of(equation)[0].dtype)


class Graph:
    """Nodes and initializers of an ONNX graph.

    Args:
      input_name: name of the only input.
      shape: shape of the input, whose first axis is the batch.
      dtype: dtype of the input.
      labels: names for initializers, by the addresses of their data.
    """

    def __init__(self, input_name: str, shape: Sequence[Any], dtype: Any, labels: Mapping[int, str]):
        self.input = Tensor(input_name, tuple(shape), identity(shape))
        self._input_dtype = dtype
        self._labels, self._used_labels = labels, set[str]()
        self._nodes: list[Any] = []
        self._initializers: list[TensorProto] = []
        # Names of the nodes and initializers that can be reused, by their content. The arrays are kept alive, because
        # Python may give the `id` of a deleted array to another array.
        self._transposed: dict[tuple[str, Order], str] = {}
        self._constants: dict[tuple[int, Order], tuple[np.ndarray, str]] = {}
        self._small_constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._shapes: dict[tuple[str, ...], str] = {}

    def add(self, kind: str, inputs: Sequence[str], shape: Sequence[Any], order: Order, **attributes: Any) -> Tensor:
        """Add a node with one output, whose shape in JAX is `shape` and whose order of axes is `order`."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return Tensor(name, tuple(shape), order)

    def add_split(
        self, inputs: Sequence[str], shapes: Sequence[Sequence[Any]], order: Order, axis: int
    ) -> list[Tensor]:
        """Add a node that splits a tensor along its axis `axis` into parts whose shapes in JAX are `shapes`."""
        name = f"split_{len(self._nodes)}"
        parts = [Tensor(f"{name}_{index}", tuple(shape), order) for index, shape in enumerate(shapes)]
        self._nodes.append(helper.make_node("Split", list(inputs), [part.name for part in parts], name=name, axis=axis))
        return parts

    def stored(self, value: Value, order: Order) -> str:
        """Return the name of `value` with its axes in `order`. Add a transposition or an initializer if necessary."""
        if isinstance(value, np.ndarray):
            return self._constant(value, order)
        if isinstance(value, Repeated):
            shape = [value.shape[axis] for axis in order]
            return self.add("Expand", [self._constant(value.array, order), self.sizes(shape)], value.shape, order).name
        if value.order == order:
            return value.name
        key = (value.name, order)
        if key not in self._transposed:
            self._transposed[key] = self._reordered(value, order).name
        return self._transposed[key]

    def _reordered(self, value: Tensor, order: Order) -> Tensor:
        """Return the tensor with its axes in `order`. A Reshape replaces the Transpose if only axes of size 1 move."""
        moved = [axis for axis in value.order if not (isinstance(value.shape[axis], int) and value.shape[axis] == 1)]
        if moved == [axis for axis in order if axis in moved]:
            target = self.target([value.shape[axis] for axis in order])
            return self.add("Reshape", [value.name, target], value.shape, order)
        return self.add("Transpose", [value.name], value.shape, order, perm=[value.axis(axis) for axis in order])

    def target(self, shape: Sequence[Any]) -> str:
        """Return the name of a constant with the sizes in `shape`, as an input of a Reshape node.

        If exactly one size is symbolic, the Reshape node infers this size from the number of values.
        """
        symbolic = [size for size in shape if not isinstance(size, int)]
        if len(symbolic) == 1:
            return self.integers([size if isinstance(size, int) else -1 for size in shape])
        return self.sizes(shape)

    def plain(self, value: Value) -> str:
        """Return the name of `value` with its axes ordered as in its JAX array."""
        return self.stored(value, identity(value.shape))

    def integers(self, numbers: Sequence[int]) -> str:
        """Return the name of a constant int64 vector. ONNX nodes need axes, sizes and positions as such inputs."""
        return self._constant(np.array(numbers, np.int64), (0,))

    def sizes(self, shape: Sequence[Any]) -> str:
        """Return the name of an int64 vector with the sizes in `shape`, which works for any batch size.

        Raises:
          UnsupportedError: a size is an expression of the batch size, such as twice the batch size.
        """
        batch = self.input.shape[0]
        if all(isinstance(size, int) for size in shape):
            return self.integers(shape)
        if any(not isinstance(size, int) and size != batch for size in shape):
            raise UnsupportedError(f"the shape {tuple(map(str, shape))}")
        key = tuple(map(str, shape))
        if key not in self._shapes:
            whole = self.add("Shape", [self.input.name], (len(self.input.shape),), (0,)).name
            size_of_batch = self.add("Gather", [whole, self.integers([0])], (1,), (0,)).name
            parts = [self.integers([size]) if isinstance(size, int) else size_of_batch for size in shape]
            self._shapes[key] = self.add("Concat", parts, (len(shape),), (0,), axis=0).name
        return self._shapes[key]

    def model(self, output: Value, output_name: str, dtype: Any) -> ModelProto:
        """Return the finished model with `output` as its output."""
        self._nodes.append(helper.make_node("Identity", [self.plain(output)], [output_name], name=output_name))
        self._remove_unused()
        graph = helper.make_graph(
            self._nodes,
            "network",
            inputs=[_describe(self.input.name, self.input.shape, self._input_dtype)],
            outputs=[_describe(output_name, output.shape, dtype)],
            initializer=self._initializers,
        )
        return helper.make_model(
            graph,
            producer_name="jaxcnn",
            producer_version=__version__,
            ir_version=FORMAT,
            opset_imports=[helper.make_opsetid("", OPERATORS)],
        )

    def _remove_unused(self) -> None:
        """Remove unused nodes, and then unused initializers. The last node computes the output of the model."""
        kept, used = [], {self._nodes[-1].output[0]}
        for node in reversed(self._nodes):
            if used.intersection(node.output):
                kept.append(node)
                used.update(node.input)
        self._nodes = kept[::-1]
        self._initializers = [initializer for initializer in self._initializers if initializer.name in used]

    def _constant(self, array: np.ndarray, order: Order) -> str:
        """Return the name of the initializer that contains `array` with its axes in `order`."""
        if array.nbytes <= 64:
            arranged = array.transpose(order)
            content = (arranged.dtype.name, arranged.shape, arranged.tobytes())
            if content not in self._small_constants:
                self._small_constants[content] = self._initializer(arranged, self._labels.get(address(array), ""))
            return self._small_constants[content]
        key = (id(array), order)
        if key not in self._constants:
            name = self._initializer(array.transpose(order), self._labels.get(address(array), ""))
            self._constants[key] = (array, name)
        return self._constants[key][1]

    def _initializer(self, array: np.ndarray, label: str) -> str:
        name = label if label and label not in self._used_labels else f"constant_{len(self._initializers)}"
        self._used_labels.add(name)
        # np.ascontiguousarray returns a scalar as a vector.
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name


def _describe(name: str, shape: Sequence[Any], dtype: Any) -> Any:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes)
