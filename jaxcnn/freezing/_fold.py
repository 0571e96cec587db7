"""Fold operations after a convolution into the convolution, and choose the dtype of each operation.

A convolution with a constant kernel absorbs the operations that follow it if no other operation reads the values
between them. A convolution can absorb constant affine maps of each channel, such as a bias or a batch normalization in
evaluation. A convolution can also absorb the sum with another array of the same shape, and at the end an activation
function. A product with a constant matrix at each position counts as a 1x1 convolution. A 1x1 convolution also absorbs
a batch normalization and a ReLU before it, as in DenseNet. Factors are multiplied into the kernel in float64, and the
product is rounded once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.freezing import _activated, _activation, _affine
from jaxcnn.freezing._program import KERNEL, Atom, Op, Program, Value
from jaxcnn.kernels.activated import activated_conv
from jaxcnn.kernels.convolution import LAYOUTS, Convolution, Geometry, Role
from jaxcnn.kernels.fused import fused_conv
from jaxcnn.kernels.pooling import AvgPool, MaxPool

NARROW = (
    "relu",
    "add",
    "clamp",
    "concatenate",
    "expand_dims",
    "reduce_window_max",
    "reshape",
    "slice",
    "squeeze",
    "transpose",
)
"""Operations that compute in the narrow dtype if an input has this dtype. All other operations, such as means, are
unchanged."""

NARROW_KERNELS = (MaxPool, AvgPool)
"""Kernels that compute in the narrow dtype if an input has this dtype. `AvgPool` still sums in float32."""


class Memo:
    """Folded kernels, which the programs for all image shapes share.

    Attributes:
      leaves: the model's variables, by Python's `id` of each variable. This `id` is part of the key of a folded kernel.
    """

    def __init__(self, leaves: Sequence[np.ndarray]):
        self.leaves = {id(leaf): leaf for leaf in leaves}
        self._kernels: dict[Any, np.ndarray] = {}

    def kernel(self, kernel: np.ndarray, factor: np.ndarray, dtype: Any) -> np.ndarray:
        """Return the kernel `[..., C_out]` times `factor` `[C_out]`, in `dtype`."""
        key = (id(kernel), factor.tobytes(), np.dtype(dtype))
        if key in self._kernels:
            return self._kernels[key]
        is_unchanged = (factor == 1).all()
        folded = kernel.astype(dtype) if is_unchanged else (kernel.astype(np.float64) * factor).astype(dtype)
        if id(kernel) in self.leaves:
            self._kernels[key] = folded
        return folded

    def kernels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pairs: a variable of the model, and the folded kernel that was computed from it."""
        return ((self.leaves[key[0]], kernel) for key, kernel in self._kernels.items())


@dataclass
class _Chain:
    """A convolution and the operations folded into it: `activation(conv(x, kernel) * factor + offset + residual)`."""

    geometry: Geometry
    x: Value
    kernel: np.ndarray
    factor: np.ndarray
    offset: np.ndarray
    end: Value
    ops: list[Op]
    residual: Value | None = None
    activation: str | None = None

    @property
    def is_left(self) -> bool:
        """Whether the chain is a matrix product with too few folded operations to be computed as a convolution."""
        if self.kernel.ndim == 4:
            return False
        is_image = len(self.x.shape) == 4
        return self.activation is None if self.residual is None else not is_image


def folded(program: Program, dtype: Any, memo: Memo) -> Program:
    """Return a program with the same results and fewer operations.

    Args:
      program: the program to fold.
      dtype: narrow dtype for convolutions and feature maps, or None to keep the dtypes.
      memo: kernels that earlier calls of this function have folded.
    """
    uses = _Uses(program)
    consumed: set[Op] = set()
    by_last: dict[Op, Op] = {}
    chains: list[_Chain] = []
    for op in program.ops:
        chain = _started(op, dtype)
        if chain is not None:
            while _extended(chain, uses, consumed):
                pass
            if chain.is_left:
                continue
            consumed.update(chain.ops)
            chains.append(chain)
    for chain in chains:
        before = None
        if chain.residual is None and chain.activation in (None, "relu"):
            before = _activated.of(chain.geometry, chain.x, uses, consumed)
        if before is not None:
            consumed.update(before.ops)
        by_last[chain.ops[-1]] = _fused(chain, before, dtype, memo)
    for op in program.ops:
        if op not in consumed:
            ops, merged = _affine.merged(op, uses, consumed)
            if merged is not None:
                consumed.update(ops)
                by_last[ops[-1]] = merged
    ops = [by_last.get(op, op) for op in program.ops if op not in consumed or op in by_last]
    kept = Program(_needed(ops, program.outputs), program.input, program.outputs)
    if dtype is not None:
        _narrowed(kept, dtype)
    return kept


class _Uses:
    """For each value of a program: the operation that computes the value, and the operations that read the value."""

    def __init__(self, program: Program):
        values = [value for op in program.ops for value in op.inputs if isinstance(value, Value)]
        outputs = [value for value in program.outputs if isinstance(value, Value)]
        self.count = Counter([*values, *outputs])
        self._outputs = set(outputs)
        self._readers: dict[Value, list[Op]] = {}
        for op in program.ops:
            for value in {value for value in op.inputs if isinstance(value, Value)}:
                self._readers.setdefault(value, []).append(op)
        self.makers = {value: op for op in program.ops for value in op.outputs}

    def only_reader(self, value: Value) -> Op | None:
        """Return the operation that reads `value` if it is the only reader and reads `value` once, else None."""
        return self._readers[value][0] if self.count[value] == 1 and value not in self._outputs else None

    def readers(self, value: Value) -> list[Op]:
        """Return the operations that read a value, in the order of the program."""
        return self._readers.get(value, [])


def _started(op: Op, dtype: Any) -> _Chain | None:
    """Return the chain that starts with `op` if it is a convolution with a constant kernel, else None."""
    if op.name == "dot_general":
        geometry = _dense_geometry(op, dtype)
    elif op.name == KERNEL:
        kernel = op.params["kernel"]
        is_output = isinstance(kernel, Convolution) and kernel.role is Role.OUTPUT
        geometry = kernel.geometry if is_output else None
    else:
        geometry = _geometry(op) if op.name == "conv_general_dilated" else None
    if geometry is None or not isinstance(op.inputs[0], Value) or not isinstance(op.inputs[1], np.ndarray):
        return None
    x, kernel = op.inputs[0], op.inputs[1]
    if not np.isfinite(kernel.astype(np.float32)).all():
        return None
    ones = np.ones(kernel.shape[-1])
    return _Chain(geometry, x, kernel, ones, 0 * ones, op.outputs[0], [op])


def _dense_geometry(op: Op, dtype: Any) -> Geometry | None:
    """Return the geometry of a product with a constant matrix, as a 1x1 convolution of images or of a single row.

    A single row is supported in bfloat16 only. In bfloat16, XLA on a CPU may widen the matrix at each call, which takes
    longer than the product.
    """
    x, matrix = op.inputs
    if not isinstance(x, Value) or not isinstance(matrix, np.ndarray) or x.dtype != "float32" or matrix.ndim != 2:
        return None
    axes = len(x.shape) - 1
    is_known = axes == 3 or (axes == 1 and dtype == jnp.bfloat16)
    if not is_known or op.params["dimension_numbers"] != (((axes,), (0,)), ((), ())) or 0 in matrix.shape:
        return None
    images = x.shape if axes == 3 else (1, 1, *x.shape)
    return Geometry(images, (1, 1, *matrix.shape), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)


def _geometry(op: Op) -> Geometry | None:
    """Return the geometry of a JAX convolution, or None if `jaxcnn.kernels.conv` cannot compute the convolution."""
    x, kernel = op.inputs
    p = op.params
    if len(x.shape) != 4 or len(kernel.shape) != 4 or x.dtype != kernel.dtype or x.dtype != op.outputs[0].dtype:
        return None
    layouts = jax.lax.conv_dimension_numbers((1,) * 4, (1,) * 4, LAYOUTS)
    is_plain = p["dimension_numbers"] == layouts and tuple(p["lhs_dilation"]) == (1, 1) and p["batch_group_count"] == 1
    # The model asked for this precision, so that the convolution must keep it.
    is_given = p["precision"] is not None and jax.config.values["jax_default_matmul_precision"] is None
    if not is_plain or is_given or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in kernel.shape:
        return None
    padding: Any = tuple((int(before), int(after)) for before, after in p["padding"])
    if any(side < 0 for sides in padding for side in sides):
        return None
    strides, dilation = tuple(p["window_strides"]), tuple(p["rhs_dilation"])
    return Geometry(x.shape, tuple(kernel.shape), strides, padding, dilation, p["feature_group_count"])


def _extended(chain: _Chain, uses: _Uses, consumed: set[Op]) -> bool:
    """Fold the operation that reads the result of the chain into the chain; return whether this was possible."""
    if chain.activation is not None:
        return False
    activation = _activation.of(chain.end, uses, consumed)
    if activation is not None:
        chain.activation, ops = activation
        chain.ops += ops
        chain.end = ops[-1].outputs[0]
        return True
    op = uses.only_reader(chain.end)
    if op is None or op in consumed or len(op.outputs) != 1:
        return False
    if op.name == "convert_element_type":
        # The fused kernel returns the dtype of x, and sums in float32 or wider.
        if op.outputs[0].dtype not in (chain.x.dtype, jnp.promote_types(chain.x.dtype, jnp.float32)):
            return False
    elif (found := _affine.of(op, chain.end, uses)) is not None and chain.residual is None:
        chain.factor, chain.offset = chain.factor * found.factor, chain.offset * found.factor + found.offset
    elif (residual := _residual(op, chain.end)) is not None and chain.residual is None:
        chain.residual = residual
    else:
        return False
    chain.ops.append(op)
    chain.end = op.outputs[0]
    return True


def _residual(op: Op, value: Value) -> Value | None:
    """Return the array that `op` adds to `value` if this array has the same shape as `value`, else None."""
    if op.name != "add":
        return None
    others = [atom for atom in op.inputs if atom is not value]
    if len(others) != 1 or not isinstance(others[0], Value) or others[0].shape != value.shape:
        return None
    return others[0]


def _fused(chain: _Chain, before: _activated.Activation | None, dtype: Any, memo: Memo) -> Op:
    """Return one operation that computes `chain` and, if `before` is given, also the operations in `before`."""
    computed = chain.x.dtype if dtype is None else dtype
    kernel = memo.kernel(chain.kernel, chain.factor, computed)
    bias = chain.offset.astype(jnp.promote_types(computed, jnp.float32))
    activation, geometry, is_row = chain.activation, chain.geometry, len(chain.x.shape) == 2
    result = chain.end.dtype if dtype is None else dtype

    if before is not None:
        factor, offset = before.factor.astype(bias.dtype), before.offset.astype(bias.dtype)

        def activated(*maps: jax.Array) -> list[jax.Array]:
            y = activated_conv(
                activation == "relu", kernel, factor, offset, bias, [value.astype(computed) for value in maps]
            )
            return [y.astype(result)]

        return Op("fused", activated, list(before.maps), [chain.end], narrow=dtype)

    def run(x: jax.Array, *residual: jax.Array) -> list[jax.Array]:
        others = [value.astype(computed) for value in residual]
        images = x.reshape(1, 1, *x.shape) if is_row else x
        y = fused_conv(geometry, activation, images, kernel.reshape(geometry.kernel), bias, *others)
        return [(y.reshape(y.shape[2:]) if is_row else y).astype(result)]

    inputs: list[Atom] = [chain.x] if chain.residual is None else [chain.x, chain.residual]
    return Op("fused", run, inputs, [chain.end], narrow=dtype)


def _needed(ops: list[Op], outputs: Sequence[Atom]) -> list[Op]:
    """Return the operations that have effects, or whose results the outputs need."""
    needed, kept = {value for value in outputs if isinstance(value, Value)}, []
    for op in reversed(ops):
        if op.has_effects or any(value in needed for value in op.outputs):
            kept.append(op)
            needed.update(value for value in op.inputs if isinstance(value, Value))
    return kept[::-1]


def _narrowed(program: Program, dtype: Any) -> None:
    """Let operations between convolutions compute in a narrow dtype, if this changes only the rounding of results."""
    narrow = {value for op in program.ops if op.name == "fused" for value in op.outputs}
    for op in program.ops:
        if op.name == "dot_general":
            _narrow_product(op, dtype)
        elif _may_be_narrow(op) and any(value in narrow for value in _floating(op)):
            op.narrow = dtype
            op.inputs = [atom if isinstance(atom, Value) else _cast(atom, dtype) for atom in op.inputs]
            narrow.update(op.outputs)


def _may_be_narrow(op: Op) -> bool:
    return op.name in NARROW or (op.name == KERNEL and isinstance(op.params["kernel"], NARROW_KERNELS))


def _narrow_product(op: Op, dtype: Any) -> None:
    """Let `op`, a product with a constant matrix, multiply in the narrow dtype and sum in the dtype of its result."""
    x, matrix = op.inputs
    if not isinstance(x, Value) or not isinstance(matrix, np.ndarray) or x.dtype != "float32":
        return
    numbers, preferred, matrix = op.params["dimension_numbers"], op.outputs[0].dtype, matrix.astype(dtype)
    op.inputs, op.narrow = [x], dtype
    op.run = lambda x: [jax.lax.dot_general(x, matrix, numbers, preferred_element_type=preferred)]


def _floating(op: Op) -> Iterator[Value]:
    return (atom for atom in op.inputs if isinstance(atom, Value) and jnp.issubdtype(atom.dtype, jnp.floating))


def _cast(constant: Any, dtype: Any) -> Any:
    return constant.astype(dtype) if jnp.issubdtype(constant.dtype, jnp.floating) else constant
