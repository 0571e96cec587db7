"""Sums over everything except channels, and their adjoint.

Batch normalization needs two sums in each direction. Forward they are the moments of x, `sum (x - a)` and
`sum (x - a)^2`. Backward they are `sum u` and `sum u (x - c)` of a cotangent u: the gradients of shift and factor of
the affine map `(x - c) f + s`. The sums are linear in u, and the affine map, which is linear in f and s, is their
adjoint. The native library computes both sums in one pass over the data, where XLA on a CPU makes two.

In all of these x and u are `[..., C]`, the others are `[C]` in the dtype of the computation (float32 or wider), and so
are the sums.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, is_given

LEAST_VALUES = 2**14
"""Values below which calling the native library costs more than the second pass that it saves."""


def moments(
    x: Shaped[InputArray, "*positions c"], a: Float[InputArray, " c"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Return `sum (x - a)` and `sum (x - a)^2` over all axes but the last, each `[C]`.

    >>> [sums.tolist() for sums in moments(jnp.array([[1.0], [3.0]]), jnp.array([2.0]))]
    [[0.0], [2.0]]
    """
    first, second = call(Moments(), x, a)
    return first, second


def channel_sums(
    u: Shaped[InputArray, "*positions c"], x: Shaped[InputArray, "*positions c"], c: Float[InputArray, " c"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Return `sum u` and `sum u (x - c)` over all axes but the last, each `[C]`.

    >>> u, x, c = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]]), jnp.array([1.0])
    >>> [sums.tolist() for sums in channel_sums(u, x, c)]
    [[3.0], [8.0]]
    """
    total, product = call(ChannelSums(), u, x, c)
    return total, product


def affine(
    factor: Float[InputArray, " c"],
    shift: Float[InputArray, " c"],
    x: Shaped[InputArray, "*positions c"],
    c: Float[InputArray, " c"],
) -> Float[Array, "*positions c"]:
    """Return `(x - c) factor + shift`, `[..., C]` in the dtype of c.

    >>> affine(jnp.array([2.0]), jnp.array([1.0]), jnp.array([[3.0]]), jnp.array([1.0])).tolist()
    [[5.0]]
    """
    return call(Affine(), factor, shift, x, c)[0]


def row(vector: jax.Array, like: Any) -> jax.Array:
    """Return `[C]` broadcast to the shape of `like`, `[..., C]`."""
    return jax.lax.broadcast_in_dim(vector, like.shape, (like.ndim - 1,))


def add_bias(
    y: Shaped[InputArray, "*positions c"], bias: Shaped[InputArray, " c"] | None
) -> Shaped[InputArray, "*positions c"]:
    """Return `y + bias`, `[..., C]` in the dtype of y, or y if `bias` is None.

    The sum, and the sum that is the gradient of the bias, are in float32 or wider and rounded once: XLA on a CPU sums
    bfloat16 in bfloat16, in which 256 + 1 is 256.

    >>> add_bias(jnp.ones((1, 3)), jnp.arange(3.0)).tolist()
    [[1.0, 2.0, 3.0]]
    """
    if bias is None:
        return y
    wide = jnp.promote_types(jnp.promote_types(y.dtype, bias.dtype), jnp.float32)
    return (y.astype(wide) + bias.astype(wide).reshape((1,) * (y.ndim - 1) + (-1,))).astype(y.dtype)


def is_native_size(*operands: Any) -> bool:
    """Return whether the native library takes these abstract values, of which the first is the largest."""
    return math.prod(operands[0].shape) >= LEAST_VALUES and all(x.dtype == "float32" for x in operands)


@dataclass(frozen=True)
class Moments(Kernel):
    """`moments` of (x, a)."""

    def outputs(self, x: Any, a: Any) -> list[Any]:
        return [a.update(weak_type=False)] * 2

    def form(self, x: jax.Array, a: jax.Array) -> list[jax.Array]:
        centered = x.astype(a.dtype) - row(a, x)
        return _sums(centered, jnp.square(centered))

    def cpu_form(self, x: jax.Array, a: jax.Array) -> list[jax.Array]:
        wide = x.astype(a.dtype)
        return _sums(wide - row(a, x), (wide - row(_copy(a), x)) * (wide - row(_copy(a), x)))

    def native(self, x: Any, a: Any) -> Form | None:
        if not is_native_size(x, a):
            return None
        sums = native.function(native.CHANNEL_SUMS, [a, a])
        return lambda x, a: sums(x, x, a, a)

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        (x, a), (x_dot, a_dot) = operands, tangents
        first_dot = second_dot = jnp.zeros_like(a)
        if is_given(x_dot):
            total, product = channel_sums(x_dot, x, a)
            first_dot, second_dot = total, 2 * product
        if is_given(a_dot):
            first_dot -= math.prod(x.shape[:-1]) * a_dot
            second_dot -= 2 * a_dot * outputs[0]
        return [first_dot, second_dot]


@dataclass(frozen=True)
class ChannelSums(Kernel):
    """`channel_sums` of (u, x, c)."""

    linear: ClassVar = ((0,),)

    def outputs(self, u: Any, x: Any, c: Any) -> list[Any]:
        return [c.update(weak_type=False)] * 2

    def form(self, u: jax.Array, x: jax.Array, c: jax.Array) -> list[jax.Array]:
        wide = u.astype(c.dtype)
        return _sums(wide, wide * (x.astype(c.dtype) - row(c, x)))

    def native(self, u: Any, x: Any, c: Any) -> Form | None:
        if not is_native_size(u, x, c):
            return None
        sums = native.function(native.CHANNEL_SUMS, [c, c])
        return lambda u, x, c: sums(u, x, jnp.zeros_like(c), c)

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        shift, factor = cts
        _, x, c = operands
        return [affine(factor, shift, x, c)]


@dataclass(frozen=True)
class Affine(Kernel):
    """`affine` of (factor, shift, x, c)."""

    linear: ClassVar = ((0, 1),)

    def outputs(self, factor: Any, shift: Any, x: Any, c: Any) -> list[Any]:
        return [x.update(dtype=c.dtype, weak_type=False)]

    def form(self, factor: jax.Array, shift: jax.Array, x: jax.Array, c: jax.Array) -> list[jax.Array]:
        # In lax, as a network has hundreds: operators of jax.numpy take several times as long to trace.
        scaled = jax.lax.mul(jax.lax.sub(x.astype(c.dtype), row(c, x)), row(factor, x))
        return [jax.lax.add(scaled, row(shift, x))]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        _, _, x, c = operands
        by_shift, by_factor = channel_sums(cts[0], x, c)
        return [by_factor, by_shift]


@dataclass(frozen=True)
class Materialize(Kernel):
    """`materialize` of x."""

    linear: ClassVar = ((0,),)

    def outputs(self, x: Any) -> list[Any]:
        return [x.update(weak_type=False)]

    def form(self, x: jax.Array) -> list[jax.Array]:
        return [x]

    def cpu_form(self, x: jax.Array) -> list[jax.Array]:
        return [jax.lax.optimization_barrier(x)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [materialize(cts[0])]


def materialize(x: Shaped[InputArray, "*shape"]) -> Shaped[Array, "*shape"]:
    """Return `x`. On a CPU, the program writes it to memory before it computes anything from it; also its gradient.

    Use it for arrays that several layers read, such as the feature maps between two blocks. XLA on a CPU fuses the end
    of a block into each operation that reads it, and computes it again for each. Along a chain of residual or dense
    blocks, the program and its compile time grow from block to block.

    >>> materialize(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return call(Materialize(), x)[0]


@dataclass(frozen=True)
class Together(Kernel):
    """Two arrays unchanged. Programs for GPUs compute both before anything else that needs one of them.

    XLA for GPUs computes the gradient of a kernel when the optimizer needs it, and keeps the two operands of this
    gradient until then: activations and their gradients of many layers.

    Attributes:
      in_adjoint: whether this holds for the cotangents alone, and not for the arrays.
    """

    linear: ClassVar = ((0, 1),)

    in_adjoint: bool = False

    def outputs(self, a: Any, b: Any) -> list[Any]:
        return [a.update(weak_type=False), b.update(weak_type=False)]

    def form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b] if self.in_adjoint else [*jax.lax.optimization_barrier((a, b))]

    def cpu_form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b]

    def tpu_form(self, a: jax.Array, b: jax.Array) -> list[jax.Array]:
        return [a, b]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(Together(), *cts)]

    def batched(self, operands: Any, dims: Any) -> Any:
        return call(self, *operands), dims


def _sums(*values: jax.Array) -> list[jax.Array]:
    return [x.sum(tuple(range(x.ndim - 1))) for x in values]


def _copy(vector: jax.Array) -> jax.Array:
    """Return a copy of `[C]` that XLA's common subexpression elimination cannot merge.

    XLA on a CPU would write a difference that enters several sums to memory, as large as the data.
    """
    return jax.lax.optimization_barrier(vector)
