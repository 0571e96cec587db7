"""Sums over everything but channels, and their transpose, as two primitives.

Batch normalisation needs two sums in each direction: `S = (sum (u - b), sum (u - b) (x - c))` of images or cotangents u
and images x `[..., C]`, and b and c `[C]`. Forward they are mean and variance (u is x), backward the gradients of shift
and factor. As a function of u, S has a transpose, the values `(x - c) f + s` that a normalisation computes anyway, of
which S is the transpose by f and s in turn. So the two are closed under differentiation, forward and backward, and on a
CPU S can be one pass over the data (`jaxcnn.kernels.native`), where XLA makes two. Elsewhere both are XLA's operations.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir

from jaxcnn.kernels import native
from jaxcnn.kernels._platform import traced_for_cpu
from jaxcnn.kernels.axes import varying_alike

LEAST_VALUES = 2**14
"""Values below which a call costs more than the second pass that it saves."""


def channel_sums(u: jax.Array, x: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`sum (u - b)` and `sum (u - b) (x - c)` over all axes but the last, in float32.

    Args:
      u, x: `[..., C]`.
      b, c: `[C]`, float32.

    Returns:
      two of `[C]`.
    """
    if traced_for_cpu():
        first, second = sums_p.bind(*varying_alike(u, x, b, c))
    else:
        first, second = _plain_sums(u, x, b, c)
    return first, second


def spread(x: jax.Array, c: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """`(x - c) factor + shift`, float32 `[..., C]`, of x `[..., C]` and the others `[C]`."""
    if traced_for_cpu():
        return spread_p.bind(*varying_alike(x, c, factor, shift))
    return _plain_spread(x, c, factor, shift)


# What the two are, in XLA's operations.


def _plain_sums(u: jax.Array, x: jax.Array, b: jax.Array, c: jax.Array) -> list[jax.Array]:
    axes = tuple(range(u.ndim - 1))
    wide, other = u.astype(jnp.float32), x.astype(jnp.float32)
    return [(wide - b).sum(axes), ((wide - _another(b)) * (other - _another(c))).sum(axes)]


def _plain_spread(x: jax.Array, c: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) - c) * factor + shift


def _another(centre: jax.Array) -> jax.Array:
    """The same `[C]` as something of which XLA does not know that it is the same.

    A difference from it that enters a sum is computed on the way there. Of one that enters several sums, XLA on a CPU
    would write as many values to memory as the data has.
    """
    return jax.lax.optimization_barrier(centre) if traced_for_cpu() else centre


def plain(eqn: JaxprEqn) -> ClosedJaxpr:
    """What an equation of either primitive computes, as a program of XLA's operations, for whoever reads programs."""
    form = _plain_sums if eqn.primitive is sums_p else _plain_spread
    operands: list[Any] = [atom.aval for atom in eqn.invars]
    return jax.make_jaxpr(form)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands))


# The primitives.

sums_p = Primitive("jaxcnn_channel_sums")
sums_p.multiple_results = True
spread_p = Primitive("jaxcnn_spread")

sums_p.def_impl(jax.jit(sums_p.bind))
spread_p.def_impl(jax.jit(spread_p.bind))


def _abstract_sums(u: Any, x: Any, b: Any, c: Any) -> list[Any]:
    return [b.update(weak_type=False), b.update(weak_type=False)]


def _abstract_spread(x: Any, c: Any, factor: Any, shift: Any) -> Any:
    return x.update(dtype=c.dtype, weak_type=False)


def _sums_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    u, x, b, c = primals
    u_dot, x_dot, b_dot, c_dot = tangents
    sums = sums_p.bind(u, x, b, c)
    dots = [jnp.zeros_like(b), jnp.zeros_like(b)]
    count = math.prod(u.shape[:-1])
    if not isinstance(u_dot, ad.Zero):
        dots = list(sums_p.bind(u_dot, x, jnp.zeros_like(b), c))
    if not isinstance(x_dot, ad.Zero):  # the product is symmetric
        dots[1] += sums_p.bind(x_dot, u, jnp.zeros_like(b), b)[1]
    if not isinstance(b_dot, ad.Zero):
        dots[0] -= count * b_dot
        dots[1] -= b_dot * sums_p.bind(x, x, c, c)[0]
    if not isinstance(c_dot, ad.Zero):
        dots[1] -= c_dot * sums[0]
    return sums, dots


def _sums_transpose(cts: Any, u: Any, x: jax.Array, b: jax.Array, c: jax.Array) -> list[Any]:
    shift, factor = (jnp.zeros_like(b) if isinstance(ct, ad.Zero) else ct for ct in cts)
    return [spread_p.bind(x, c, factor, shift).astype(u.aval.dtype), None, None, None]


def _spread_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, c, factor, shift = primals
    x_dot, c_dot, factor_dot, shift_dot = tangents
    parts = []
    if not isinstance(x_dot, ad.Zero):
        parts.append(x_dot.astype(jnp.float32) * factor)
    if not isinstance(c_dot, ad.Zero):
        parts.append(jnp.broadcast_to(-c_dot * factor, x.shape))
    if not (isinstance(factor_dot, ad.Zero) and isinstance(shift_dot, ad.Zero)):
        linear = (jnp.zeros_like(factor) if isinstance(dot, ad.Zero) else dot for dot in (factor_dot, shift_dot))
        parts.append(spread_p.bind(x, c, *linear))
    return spread_p.bind(x, c, factor, shift), functools.reduce(jnp.add, parts)


def _spread_transpose(ct: jax.Array, x: jax.Array, c: jax.Array, factor: Any, shift: Any) -> list[Any]:
    sums = sums_p.bind(ct, x, jnp.zeros_like(c), c)
    wanted = [ad.is_undefined_primal(factor), ad.is_undefined_primal(shift)]
    return [None, None, *(value if want else None for value, want in zip(sums[::-1], wanted, strict=True))]


def _batched_sums(operands: Any, dims: Any) -> tuple[Any, Any]:
    return jax.vmap(_plain_sums, in_axes=tuple(dims))(*operands), [0, 0]


def _batched_spread(operands: Any, dims: Any) -> tuple[Any, Any]:
    return jax.vmap(_plain_spread, in_axes=tuple(dims))(*operands), 0


def _sums_for_cpu(ctx: Any, u: Any, x: Any, b: Any, c: Any) -> Any:
    is_large = math.prod(ctx.avals_in[0].shape) >= LEAST_VALUES
    is_float32 = all(aval.dtype == "float32" for aval in ctx.avals_in)
    if is_large and is_float32 and native.may_be_called(ctx) and native.is_used():
        return native.channel_sums(ctx, u, x, b, c)
    return _lowered_sums(ctx, u, x, b, c)


_lowered_sums = mlir.lower_fun(_plain_sums, multiple_results=True)

sums_p.def_abstract_eval(_abstract_sums)
spread_p.def_abstract_eval(_abstract_spread)
ad.primitive_jvps[sums_p] = _sums_jvp
ad.primitive_jvps[spread_p] = _spread_jvp
ad.primitive_transposes[sums_p] = _sums_transpose
ad.primitive_transposes[spread_p] = _spread_transpose
batching.primitive_batchers[sums_p] = _batched_sums
batching.primitive_batchers[spread_p] = _batched_spread
mlir.register_lowering(sums_p, _lowered_sums)
mlir.register_lowering(sums_p, _sums_for_cpu, platform="cpu")
mlir.register_lowering(spread_p, mlir.lower_fun(_plain_spread, multiple_results=False))
