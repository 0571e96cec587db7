"""Recognize activation functions by the operations that compute them."""

import functools
from typing import Any

import jax
import numpy as np

from jaxcnn.freezing._program import Op, Program, Value, read, unrepeated
from jaxcnn.kernels.elementwise import FORMS


def of(value: Value, uses: Any, consumed: set[Op]) -> tuple[str, list[Op]] | None:
    """Return the name and the operations of the activation function that reads `value`, or None if there is none.

    No other operation reads `value` or the intermediate results. The last operation in the list computes the result.
    """
    for index, (name, _) in enumerate(FORMS):
        ops = _matched(_operations(index, value.shape, np.dtype(value.dtype)), value, uses, consumed)
        if ops is not None:
            return name, ops
    return None


@functools.lru_cache(maxsize=1024)
def _operations(index: int, shape: tuple[Any, ...], dtype: np.dtype) -> Program:
    """Return the operations by which JAX computes activation function number `index` of `FORMS`."""
    x: Any = jax.ShapeDtypeStruct(shape, dtype)
    program, _ = read(jax.make_jaxpr(FORMS[index][1])(x), (), x)
    return program


def _matched(wanted: Program, value: Value, uses: Any, consumed: set[Op]) -> list[Op] | None:
    """Return the operations that compute the program `wanted` from `value`, or None if they are not all present."""
    found: dict[Any, Value] = {wanted.input: value}
    ops: list[Op] = []
    for step in wanted.ops:
        read_first = next(found[atom] for atom in step.inputs if isinstance(atom, Value))
        op = next((op for op in uses.readers(read_first) if op not in consumed and _is_same(op, step, found)), None)
        if op is None:
            return None
        found |= zip(step.outputs, op.outputs, strict=True)
        ops.append(op)
    inner = [value, *(output for op in ops[:-1] for output in op.outputs)]
    is_alone = all(uses.count[x] == sum(atom is x for op in ops for atom in op.inputs) for x in inner)
    return ops if is_alone else None


def _is_same(op: Op, wanted: Op, found: dict[Any, Value]) -> bool:
    """Return whether `op` computes the same as `wanted`; `found` maps values of `wanted` to values of `op`."""
    if op.name != wanted.name or len(op.inputs) != len(wanted.inputs) or op.params != wanted.params:
        return False
    for atom, other in zip(op.inputs, wanted.inputs, strict=True):
        if isinstance(other, Value):
            if found.get(other) is not atom:
                return False
        elif isinstance(atom, Value) or not np.array_equal(unrepeated(atom), unrepeated(other)):
            return False
    return [x.dtype for x in op.outputs] == [x.dtype for x in wanted.outputs]
