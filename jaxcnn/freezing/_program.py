"""A jaxpr as a flat list of operations, with all calls of functions expanded and all constants computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxcnn.kernels.axes import varying_alike
from jaxcnn.kernels.convolution import BiasedConvolution
from jaxcnn.kernels.elementwise import Smooth
from jaxcnn.kernels.products import Dense
from jaxcnn.kernels.reductions import Materialize

KERNEL = "jaxcnn_kernel"

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}
"""Equations that only call a function, with the name of the parameter that contains the function. A function with a
custom derivative is not expanded, so that it keeps this derivative."""

UNCHANGED = ("name", "copy", "copy_p", "stop_gradient", "pvary", "pcast")
"""Operations that return constants unchanged. `pvary` and `pcast` only mark values as varying within `shard_map`, which
`varying_alike` does for this program."""

BARRIERS = ("name",)
"""Operations that do not change values, but would prevent operations around them from being merged."""

NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "convert_element_type": lambda x: x,
    "integer_pow": lambda x, y: x**y,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "sub": np.subtract,
}
"""Operations on constants that NumPy computes. JAX would compile a program for each operation and shape."""


@dataclass(eq=False)
class Value:
    """An array that depends on the images."""

    shape: tuple[Any, ...]
    dtype: Any


Atom = Value | Any
"""A `Value`, or a constant array."""


@dataclass(eq=False)
class Op:
    """An operation of a `Program`.

    Attributes:
      name: name of the operation: "relu", or the name of the operation's JAX primitive.
      run: function that computes the arrays of the outputs from the arrays of the inputs.
      inputs: operands of the operation: values that depend on the images, and constants.
      outputs: values that the operation computes.
      params: parameters of the JAX primitive, by name.
      has_effects: whether the operation must run even if nothing reads its outputs.
      narrow: dtype in which the operation computes; None to compute in the dtypes of its inputs.
    """

    name: str
    run: Callable[..., Sequence[Any]]
    inputs: list[Atom]
    outputs: list[Value]
    params: dict[str, Any] = field(default_factory=dict)
    narrow: Any = None
    has_effects: bool = False


@dataclass
class Program:
    """A list of operations, in the order in which they compute the outputs from a single input."""

    ops: list[Op]
    input: Value
    outputs: list[Atom]

    def run(self, x: jax.Array) -> list[jax.Array]:
        """Compute the outputs for an input `x`."""
        arrays: dict[Value, Any] = {self.input: x}
        kept = {y for y in self.outputs if isinstance(y, Value)}
        last = {value: op for op in self.ops for value in op.inputs if isinstance(value, Value)}
        for op in self.ops:
            inputs = [self._read(arrays, atom, op) for atom in op.inputs]
            arrays |= zip(op.outputs, op.run(*_alike(inputs)), strict=True)
            for value in {value for value in op.inputs if isinstance(value, Value)}:
                if last[value] is op and value not in kept:
                    del arrays[value]
        return [_as(arrays[y], y.dtype) if isinstance(y, Value) else jnp.asarray(y) for y in self.outputs]

    def _read(self, arrays: dict[Value, Any], atom: Atom, op: Op) -> Any:
        """Return the array of `atom`, in the dtype in which `op` computes."""
        if not isinstance(atom, Value):
            small = unrepeated(atom) if isinstance(atom, np.ndarray) else atom
            return atom if small.size == atom.size else jnp.broadcast_to(small, atom.shape)
        is_narrow = op.narrow is not None and jnp.issubdtype(atom.dtype, jnp.floating)
        return _as(arrays[atom], op.narrow if is_narrow else atom.dtype)


def placed(constant: np.ndarray, ndim: int, axes: Sequence[int]) -> np.ndarray:
    """Return a constant with its axes at the positions `axes` of `ndim` axes; all other axes have size 1."""
    sizes = [1] * ndim
    for axis, size in zip(axes, constant.shape, strict=True):
        sizes[axis] = size
    return constant.reshape(sizes)


def unrepeated(constant: np.ndarray) -> np.ndarray:
    """Return a constant with size 1 along each axis along which NumPy repeats it (stride 0)."""
    steps = zip(constant.shape, constant.strides, strict=True)
    return constant[tuple(slice(0, 1) if size > 1 and step == 0 else slice(None) for size, step in steps)]


def _as(x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype or jnp.issubdtype(x.dtype, jax.dtypes.extended) else x.astype(dtype)


def _alike(inputs: list[Any]) -> list[Any]:
    """Within `shard_map`, mark constant inputs as varying over the axes over which other inputs vary."""
    varies = any(isinstance(x, jax.Array) and jax.typeof(x).manual_axis_type.varying for x in inputs)
    return varying_alike(*map(jnp.asarray, inputs)) if varies else inputs


def read(traced: Any, leaves: Sequence[np.ndarray], x: jax.Array) -> tuple[Program, list[bool]]:
    """Return the jaxpr `traced` as a program, and for each variable whether the jaxpr uses the variable.

    The inputs of the jaxpr are the variables `leaves` and the images `x`. The only input of the program is the images.
    """
    ops: list[Op] = []
    image = Value(x.shape, x.dtype)
    outputs = _run(ops, traced.jaxpr, traced.consts, [*leaves, image])
    read = {atom for eqn in traced.jaxpr.eqns for atom in eqn.invars if not isinstance(atom, Literal)}
    read |= {atom for atom in traced.jaxpr.outvars if not isinstance(atom, Literal)}
    return Program(ops, image, outputs), [variable in read for variable in traced.jaxpr.invars[: len(leaves)]]


def _run(ops: list[Op], jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Atom]) -> list[Atom]:
    """Append the operations of `jaxpr` for the given arguments to `ops`, and return the outputs of `jaxpr`."""
    atoms: dict[Any, Atom] = dict(zip(jaxpr.constvars, constants, strict=True))
    atoms |= zip(jaxpr.invars, arguments, strict=True)

    def get(atom: Any) -> Atom:
        described: Any = atom.aval
        return np.asarray(atom.val, described.dtype) if isinstance(atom, Literal) else atoms[atom]

    for eqn in jaxpr.eqns:
        atoms |= zip(eqn.outvars, _equation(ops, eqn, [get(atom) for atom in eqn.invars]), strict=True)
    return [get(atom) for atom in jaxpr.outvars]


# These kernels are replaced by the JAX operations that they consist of, which can be folded into convolutions.
INLINED = (BiasedConvolution, Dense, Smooth)


def _equation(ops: list[Op], eqn: JaxprEqn, inputs: list[Atom]) -> Sequence[Atom]:
    name = eqn.primitive.name
    if name in CALLS:
        called = eqn.params[CALLS[name]]
        is_closed = isinstance(called, ClosedJaxpr) and hasattr(called, "consts")
        return _run(ops, called.jaxpr if is_closed else called, called.consts if is_closed else (), inputs)
    if _is_constant(eqn, inputs):
        return _evaluated(eqn, inputs)
    kernel = eqn.params["kernel"] if name == KERNEL else None
    if name in BARRIERS or isinstance(kernel, Materialize):
        return inputs
    if isinstance(kernel, INLINED):
        avals: Any = [variable.aval for variable in eqn.invars]
        plain = jax.make_jaxpr(kernel.form)(*(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals))
        return _run(ops, plain.jaxpr, plain.consts, inputs)
    outputs = [Value(tuple(aval.shape), aval.dtype) for aval in _avals(eqn)]
    if is_relu(eqn):
        kept = [atom for atom in inputs if isinstance(atom, Value)]
        ops.append(Op("relu", lambda x: [jax.nn.relu(x)], kept, outputs))
    else:
        ops.append(
            Op(name, lambda *arrays: bound(eqn, arrays), inputs, outputs, dict(eqn.params), None, bool(eqn.effects))
        )
    return outputs


def _is_constant(eqn: JaxprEqn, inputs: list[Atom]) -> bool:
    """Return whether an equation can be computed now: it depends neither on the images nor on an unknown batch size."""
    if any(isinstance(atom, Value) for atom in inputs) or eqn.effects:
        return False
    sizes = [size for aval in _avals(eqn) for size in aval.shape]
    return eqn.primitive.name != "dim_as_value" and all(isinstance(size, int) for size in sizes)


def _evaluated(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Return the outputs of an equation whose inputs are constants."""
    name = eqn.primitive.name
    if name in UNCHANGED:
        return inputs
    if name == "broadcast_in_dim" and isinstance(inputs[0], np.ndarray):
        shape = eqn.params["shape"]
        return [np.broadcast_to(placed(inputs[0], len(shape), eqn.params["broadcast_dimensions"]), shape)]
    if name in NUMPY and all(isinstance(x, np.ndarray) for x in inputs):
        options = {"y": eqn.params["y"]} if name == "integer_pow" else {}
        with np.errstate(all="ignore"):
            outputs = [NUMPY[name](*inputs, **options)]
    else:
        with jax.ensure_compile_time_eval():
            outputs = list(bound(eqn, inputs))
    return [_stored(y, aval.dtype) for y, aval in zip(outputs, _avals(eqn), strict=True)]


def _avals(eqn: JaxprEqn) -> list[Any]:
    return [variable.aval for variable in eqn.outvars]


def _stored(y: Any, dtype: Any) -> Any:
    """Return a constant as a NumPy array, or unchanged if NumPy lacks its dtype, as for random keys."""
    return y if jnp.issubdtype(dtype, jax.dtypes.extended) else np.asarray(y).astype(dtype, copy=False)


def bound(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the outputs of the equation `eqn` for arrays `inputs`."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*inputs, **params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def is_relu(eqn: JaxprEqn) -> bool:
    """Return whether an equation computes `max(x, 0)`, directly or by a call of a function that computes only this."""
    while eqn.primitive.name in ("jit", "pjit", "custom_jvp_call"):
        called = eqn.params["call_jaxpr" if eqn.primitive.name == "custom_jvp_call" else "jaxpr"]
        called = getattr(called, "jaxpr", called)
        if len(called.eqns) != 1 or list(called.outvars) != list(called.eqns[0].outvars):
            return False
        (eqn,) = called.eqns
    zeros = [atom for atom in eqn.invars if isinstance(atom, Literal) and np.ndim(atom.val) == 0 and atom.val == 0]
    return eqn.primitive.name == "max" and len(zeros) == 1
