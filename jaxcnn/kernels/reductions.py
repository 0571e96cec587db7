"""Sums over all axes except channels, and their adjoint.

Batch normalization needs two sums in each direction. The forward pass needs the moments of x, `sum (x - a)` and
`sum (x - a)^2`, for a given center a. The backward pass needs `sum u` and `sum u (x - c)` of a cotangent u, for a given
center c. The sums of the backward pass are the gradients with respect to s and f of the affine map `(x - c) f + s`.
These sums are linear in u, and their adjoint is the affine map, which is linear in f and s. The native library computes
the two sums of a direction in one pass over the data. XLA on a CPU needs two passes.

In all functions, x and u are `[..., C]`. All other operands and the sums are `[C]` in the dtype of the computation
(float32 or wider).
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
"""Smallest number of values for which a call of the native library costs less time than a second pass over the data."""


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
    """Return the vector `[C]` broadcast to the shape `[..., C]` of `like`."""
    return jax.lax.broadcast_in_dim(vector, like.shape, (like.ndim - 1,))


def add_bias(
    y: Shaped[InputArray, "*positions c"], bias: Shaped[InputArray, " c"] | None
) -> Shaped[InputArray, "*positions c"]:
    """Return `y + bias`, `[..., C]` in the dtype of y, or y if `bias` is None.

    The sum, and the gradient of the bias, are computed in float32 or wider and rounded once. XLA on a CPU would sum
    bfloat16 values in bfloat16, in which 256 + 1 is 256.

    >>> add_bias(jnp.ones((1, 3)), jnp.arange(3.0)).tolist()
    [[1.0, 2.0, 3.0]]
    """
    if bias is None:
        return y
    wide = jnp.promote_types(jnp.promote_types(y.dtype, bias.dtype), jnp.float32)
    return (y.astype(wide) + bias.astype(wide).reshape((1,) * (y.ndim - 1) + (-1,))).astype(y.dtype)


def is_native_size(*operands: Any) -> bool:
    """Return whether the native library supports these operands; the first operand must be the largest."""
    return math.prod(operands[0].shape) >= LEAST_VALUES and all(x.dtype == "float32" for x in operands)


@dataclass(frozen=True)
class Moments(Kernel):
    """The kernel of `moments`. Its operands are (x, a)."""

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
    """The kernel of `channel_sums`. Its operands are (u, x, c)."""

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
    """The kernel of `affine`. Its operands are (factor, shift, x, c)."""

    linear: ClassVar = ((0, 1),)

    def outputs(self, factor: Any, shift: Any, x: Any, c: Any) -> list[Any]:
        return [x.update(dtype=c.dtype, weak_type=False)]

    def form(self, factor: jax.Array, shift: jax.Array, x: jax.Array, c: jax.Array) -> list[jax.Array]:
        # A network has hundreds of affine maps, and operators of jax.numpy take several times as long to trace as lax.
        scaled = jax.lax.mul(jax.lax.sub(x.astype(c.dtype), row(c, x)), row(factor, x))
        return [jax.lax.add(scaled, row(shift, x))]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        _, _, x, c = operands
        by_shift, by_factor = channel_sums(cts[0], x, c)
        return [by_factor, by_shift]


@dataclass(frozen=True)
class Materialize(Kernel):
    """The kernel of `materialize`. Its operand is x."""

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
    """Return `x`. On a CPU, the program writes `x` and its gradient to memory before it uses them.

    Use this function for arrays that several layers read, such as the feature maps between two blocks. Without
    `materialize`, XLA on a CPU fuses the end of a block into each operation that reads the block's output, and repeats
    the computation of this end for each operation. In a sequence of residual or dense blocks, the program and its
    compile time would grow from block to block.

    >>> materialize(jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    return call(Materialize(), x)[0]


@dataclass(frozen=True)
class Together(Kernel):
    """Return two arrays unchanged. Programs for GPUs compute both arrays before any operation uses one of them.

    Without this kernel, XLA for GPUs computes the gradient of a layer's weights only when the optimizer needs this
    gradient. Until the optimizer runs, XLA keeps both operands of the weight gradient, the activations and their
    gradients, in memory for many layers.

    Attributes:
      in_adjoint: whether to order only the computation of the two cotangents, and not of the two arrays.
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
    """Return a copy of the vector `[C]` that XLA's common subexpression elimination cannot merge with the original.

    If several sums shared a difference, XLA on a CPU would write the difference to memory, as an array of the size of
    the data.
    """
    return jax.lax.optimization_barrier(vector)
