"""Batch normalization in training and evaluation.

Let a channel have m values, mean mu and variance v, `r = 1 / sqrt(v + epsilon)` and `f = r scale`. The output is
`y = (x - mu) f + bias` (Ioffe and Szegedy, *Batch Normalization*, 2015). With

    `L(u) = f (u - sum u / m - (x - mu) r^2 sum (u (x - mu)) / m)`,

the derivative of y with respect to x (section 3 of the paper), the tangent of y is

    `T(u, s, b) = L(u) + (x - mu) r s + b`,  and its adjoint is  `G(g) = L(g), r sum (g (x - mu)), sum g`,

the gradients with respect to x, scale and bias. T and G are adjoints of each other, so kernels for y, T and G are
closed under differentiation.

In JAX operations a batch normalization is a dozen small computations on `[C]`, which take XLA on a CPU longer to
compile than the network's real work. The native library does them in one call a direction; XLA does what is `[..., C]`.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, instantiated, is_given
from jaxcnn.kernels.axes import is_bound, needs_mean
from jaxcnn.kernels.reductions import Affine, affine, channel_sums, is_native_size, moments, row

Groups = tuple[tuple[int, ...], ...]

LEAST_CHANNELS = 24
"""Channels below which the kernels of this file are slower than their parts: LLVM unrolls the short loop over channels
that is left to XLA, and does not vectorize it (16 channels: 0.6 of the speed forward; from 24 on: no difference)."""


# A deep network has hundreds of batch normalizations of a few shapes. `jit` traces and differentiates each shape once.
@functools.partial(jax.jit, static_argnames=("momentum", "epsilon", "unbiased", "axis_name", "axis_index_groups"))
def batch_norm(
    x: jax.Array,
    running_mean: jax.Array,
    running_var: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    momentum: float,
    epsilon: float,
    unbiased: bool,
    axis_name: str | None = None,
    axis_index_groups: Groups | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize a batch by its own statistics.

    Args:
      x: `[..., C]`.
      running_mean, running_var, scale, bias: `[C]`. None stands for a scale of ones and a bias of zeros.
      momentum, epsilon, unbiased, axis_index_groups: as in `jaxcnn.layers.BatchNorm`.
      axis_name: likewise; an unbound name counts as None.

    Returns:
      The output `[..., C]`, in float32 or the dtype of x, whichever is wider, and the new running mean and variance
      `[C]` in the dtypes of the old ones.
    """
    vectors = _wide_vectors(x, running_mean, running_var, scale, bias)
    axis_name = axis_name if axis_name is not None and is_bound(axis_name) else None
    is_local = axis_name is None or not needs_mean(axis_name, x)
    if is_local and x.shape[-1] >= LEAST_CHANNELS:
        y, new_mean, new_var, *_ = call(BatchNorm(momentum, epsilon, unbiased), x, *vectors)
    else:
        wide_mean, wide_var, gamma, beta = vectors
        mean, var, count = _statistics(x, wide_mean, axis_name, axis_index_groups)
        y = _normalized(x, mean, var, gamma, beta, epsilon)
        new_mean = momentum * wide_mean + (1 - momentum) * mean
        new_var = momentum * wide_var + (1 - momentum) * _bessel(count, unbiased) * var
    return y, new_mean.astype(running_mean.dtype), new_var.astype(running_var.dtype)


def normalize(x: jax.Array, mean: Any, var: Any, scale: Any, bias: Any, *, epsilon: float) -> jax.Array:
    """Normalize `[..., C]` by given statistics `[C]`; arguments and dtype of the result as in `batch_norm`."""
    wide_mean, wide_var, gamma, beta = _wide_vectors(x, mean, var, scale, bias)
    return _normalized(x, wide_mean, wide_var, gamma, beta, epsilon)


def _wide_vectors(x: jax.Array, mean: Any, var: Any, scale: Any, bias: Any) -> list[jax.Array]:
    """Return the vectors `[C]` in the dtype of the computation."""
    wide, channels = jnp.promote_types(x.dtype, jnp.float32), x.shape[-1:]
    gamma = jnp.ones(channels, wide) if scale is None else scale
    beta = jnp.zeros(channels, wide) if bias is None else bias
    return [vector.astype(wide) for vector in (mean, var, gamma, beta)]


def _statistics(
    x: jax.Array, around: jax.Array, axis_name: str | None, groups: Groups | None
) -> tuple[jax.Array, jax.Array, int]:
    """Return mean and variance `[C]` over everything except channels, and the number of values of a channel."""
    count = _count(x)
    offset, square = (total / count for total in moments(x, around))
    if axis_name is not None:
        if needs_mean(axis_name, offset):
            offset, square = jax.lax.pmean(jnp.stack([offset, square]), axis_name, axis_index_groups=groups)
        count *= len(groups[0]) if groups else jax.lax.axis_size(axis_name)
    return around + offset, _variance(offset, square), count


def _variance(offset: jax.Array, square: jax.Array) -> jax.Array:
    """Return `Var(x) = E[(x - a)^2] - (E[x] - a)^2`, which holds for every a and takes one pass over the data.

    With the running mean for a, the difference keeps the digits that `E[x^2] - E[x]^2` would lose.
    """
    return jnp.maximum(square - jnp.square(offset), 0.0)


def _normalized(x: jax.Array, mean: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> jax.Array:
    factor = jax.lax.rsqrt(var + epsilon) * gamma
    # `center - mean` is 0. Through it, the gradient of the mean needs no further sum over the data.
    center = jax.lax.stop_gradient(mean)
    return affine(factor, (center - mean) * factor + beta, x, center)


def _count(x: Any) -> int:
    return math.prod(x.shape[:-1])


def _bessel(count: int, unbiased: bool) -> float:
    """Return Bessel's correction, `m / (m - 1)`."""
    return count / max(count - 1, 1) if unbiased else 1.0


@dataclass(frozen=True)
class BatchNorm(Kernel):
    """y, the new running statistics, mu and r, from x `[..., C]` and running mean, running variance, scale and bias."""

    momentum: float
    epsilon: float
    unbiased: bool

    def outputs(self, x: Any, around: Any, *_: Any) -> list[Any]:
        return [x.update(dtype=around.dtype, weak_type=False), *[around.update(weak_type=False)] * 4]

    def form(self, x: Any, around: Any, running_var: Any, scale: Any, bias: Any) -> list[jax.Array]:
        mean, var, count = _statistics(x, around, None, None)
        r = jax.lax.rsqrt(var + self.epsilon)
        return [
            affine(r * scale, bias, x, mean),
            self.momentum * around + (1 - self.momentum) * mean,
            self.momentum * running_var + (1 - self.momentum) * _bessel(count, self.unbiased) * var,
            mean,
            r,
        ]

    def native(self, x: Any, around: Any, *vectors: Any) -> Form | None:
        if not is_native_size(x, around, *vectors):
            return None
        numbers = self.momentum, self.epsilon, _bessel(_count(x), self.unbiased)
        of_vectors = native.function(native.NORMALIZATION, [around] * 5, numbers=numbers)

        def form(x: Any, around: Any, running_var: Any, scale: Any, bias: Any) -> list[jax.Array]:
            mean, r, factor, new_mean, new_var = of_vectors(x, around, running_var, scale, bias)
            return [*Affine().form(factor, bias, x, mean), new_mean, new_var, mean, r]

        return form

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, scale = operands[0], operands[3]
        x_dot, around_dot, var_dot, scale_dot, bias_dot = tangents
        mean, r = outputs[3:]
        by_scale, by_bias = instantiated(scale_dot, mean), instantiated(bias_dot, mean)
        if is_given(x_dot):
            y_dot = call(Tangent(), x_dot, by_scale, by_bias, x, mean, r, scale)[0]
            total, product = channel_sums(x_dot, x, mean)
            mean_dot, variance_dot = total / _count(x), 2 * product / _count(x)
        else:
            y_dot = affine(r * by_scale, by_bias, x, mean)
            mean_dot = variance_dot = jnp.zeros_like(mean)
        new_mean_dot = (1 - self.momentum) * mean_dot
        new_var_dot = (1 - self.momentum) * _bessel(_count(x), self.unbiased) * variance_dot
        if is_given(around_dot):
            new_mean_dot += self.momentum * around_dot
        if is_given(var_dot):
            new_var_dot += self.momentum * var_dot
        return [y_dot, new_mean_dot, new_var_dot, mean_dot, -0.5 * r**3 * variance_dot]


@dataclass(frozen=True)
class Tangent(Kernel):
    """T of (u, s, b, x, mu, r, scale)."""

    linear: ClassVar = ((0, 1, 2),)

    def outputs(self, u: Any, s: Any, *_: Any) -> list[Any]:
        return [u.update(dtype=s.dtype, weak_type=False)]

    def form(self, u: Any, s: Any, b: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[jax.Array]:
        inner, factor, shift, _, _ = _parts(u, x, mean, r, scale)
        return [inner + affine(factor + r * s, shift + b, x, mean)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(Gradient(), cts[0], *operands[3:])]


@dataclass(frozen=True)
class Gradient(Kernel):
    """G of (g, x, mu, r, scale)."""

    linear: ClassVar = ((0,),)

    def outputs(self, g: Any, x: Any, mean: Any, *_: Any) -> list[Any]:
        return [g.update(dtype=mean.dtype, weak_type=False), *[mean.update(weak_type=False)] * 2]

    def form(self, g: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[jax.Array]:
        inner, factor, shift, by_scale, by_bias = _parts(g, x, mean, r, scale)
        return [inner + affine(factor, shift, x, mean), by_scale, by_bias]

    def native(self, g: Any, x: Any, mean: Any, *vectors: Any) -> Form | None:
        if not is_native_size(g, x, mean, *vectors):
            return None
        of_vectors = native.function(native.NORMALIZATION_GRADIENT, [mean] * 5)

        def form(g: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[jax.Array]:
            f, factor, shift, by_scale, by_bias = of_vectors(g, x, mean, r, scale)
            by_x = jax.lax.add(jax.lax.mul(g, row(f, g)), Affine().form(factor, shift, x, mean)[0])
            return [by_x, by_scale, by_bias]

        return form

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(Tangent(), *cts, *operands[1:])]


def _parts(u: Any, x: Any, mean: Any, r: Any, scale: Any) -> tuple[jax.Array, ...]:
    """Return `f u`, the factor and shift of x that make it L(u), and the contributions of u to scale and bias."""
    total, product = channel_sums(u, x, mean)
    f, count = r * scale, _count(x)
    by_scale = r * product
    return u.astype(f.dtype) * row(f, u), -f * r * by_scale / count, -f * total / count, by_scale, total
