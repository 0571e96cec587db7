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

SAMPLE_STRIDE = 4
"""Distance between the rows, and between the columns, whose mean is the center of a channel's sums."""

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
        center, offset, var, count = _statistics(x, wide_mean.dtype, axis_name, axis_index_groups)
        y = _normalized(x, center, offset, var, gamma, beta, epsilon)
        new_mean = momentum * wide_mean + (1 - momentum) * (center + offset)
        new_var = momentum * wide_var + (1 - momentum) * _bessel(count, unbiased) * var
    return y, new_mean.astype(running_mean.dtype), new_var.astype(running_var.dtype)


def normalize(x: jax.Array, mean: Any, var: Any, scale: Any, bias: Any, *, epsilon: float) -> jax.Array:
    """Normalize `[..., C]` by given statistics `[C]`; arguments and dtype of the result as in `batch_norm`."""
    wide_mean, wide_var, gamma, beta = _wide_vectors(x, mean, var, scale, bias)
    center = jax.lax.stop_gradient(wide_mean)
    return _normalized(x, center, wide_mean - center, wide_var, gamma, beta, epsilon)


def _wide_vectors(x: jax.Array, mean: Any, var: Any, scale: Any, bias: Any) -> list[jax.Array]:
    """Return the vectors `[C]` in the dtype of the computation."""
    wide, channels = jnp.promote_types(x.dtype, jnp.float32), x.shape[-1:]
    gamma = jnp.ones(channels, wide) if scale is None else scale
    beta = jnp.zeros(channels, wide) if bias is None else bias
    return [vector.astype(wide) for vector in (mean, var, gamma, beta)]


def _statistics(
    x: jax.Array, dtype: Any, axis_name: str | None, groups: Groups | None
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """Return center, mean minus center, and variance `[C]` over everything except channels, and the number of values.

    For every center c, `Var(x) = E[(x - c)^2] - (E[x] - c)^2`, which takes one pass over the data. The center is near
    the mean, so that the difference keeps the digits that `E[x^2] - E[x]^2` loses.
    """
    count, center = _count(x), jax.lax.stop_gradient(_sample_mean(x, dtype))
    if axis_name is not None and needs_mean(axis_name, center):
        center = jax.lax.pmean(center, axis_name, axis_index_groups=groups)
    offset, square = (total / count for total in moments(x, center))
    if axis_name is not None:
        if needs_mean(axis_name, offset):
            offset, square = jax.lax.pmean(jnp.stack([offset, square]), axis_name, axis_index_groups=groups)
        count *= len(groups[0]) if groups else jax.lax.axis_size(axis_name)
    return center, offset, jnp.maximum(square - jnp.square(offset), 0.0), count


def _sample_mean(x: jax.Array, dtype: Any) -> jax.Array:
    """Return the mean `[C]` over every fourth row and column of each image.

    The square of the difference between this mean and the mean of all values is at most 16 times the variance: a
    sixteenth of the values cannot differ more from the others. Images are averaged one by one, because a long sum of
    large values loses digits.
    """
    strides = (1, *(SAMPLE_STRIDE,) * (x.ndim - 2), 1)[-x.ndim :]
    sample = jax.lax.slice(x, (0,) * x.ndim, x.shape, strides).astype(dtype)
    of_examples = sample.mean(tuple(range(1, x.ndim - 1)))
    return of_examples.mean(tuple(range(of_examples.ndim - 1)))


def _normalized(x: jax.Array, center: Any, offset: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> jax.Array:
    """Normalize by the mean `center + offset`. The center is a constant, so that its gradient takes no further sum."""
    factor = jax.lax.rsqrt(var + epsilon) * gamma
    return affine(factor, beta - offset * factor, x, center)


def _count(x: Any) -> int:
    return math.prod(x.shape[:-1])


def _bessel(count: Any, unbiased: bool) -> Any:
    """Return Bessel's correction, `m / (m - 1)`, also for a symbolic number of values."""
    if not unbiased:
        return 1.0
    return count / (max(count - 1, 1) if isinstance(count, int) else jnp.maximum(count - 1, 1))


@dataclass(frozen=True)
class BatchNorm(Kernel):
    """y, the new running statistics, mu and r, from x `[..., C]` and running mean, running variance, scale and bias."""

    momentum: float
    epsilon: float
    unbiased: bool

    def outputs(self, x: Any, running_mean: Any, *_: Any) -> list[Any]:
        return [x.update(dtype=running_mean.dtype, weak_type=False), *[running_mean.update(weak_type=False)] * 4]

    def form(self, x: Any, running_mean: Any, running_var: Any, scale: Any, bias: Any) -> list[jax.Array]:
        center, offset, var, count = _statistics(x, running_mean.dtype, None, None)
        mean = center + offset
        return [
            _normalized(x, center, offset, var, scale, bias, self.epsilon),
            self.momentum * running_mean + (1 - self.momentum) * mean,
            self.momentum * running_var + (1 - self.momentum) * _bessel(count, self.unbiased) * var,
            mean,
            jax.lax.rsqrt(var + self.epsilon),
        ]

    def native(self, x: Any, running_mean: Any, *vectors: Any) -> Form | None:
        if not is_native_size(x, running_mean, *vectors):
            return None
        numbers = self.momentum, self.epsilon, _bessel(_count(x), self.unbiased)
        of_vectors = native.function(native.NORMALIZATION, [running_mean] * 6, numbers=numbers)

        def form(x: Any, running_mean: Any, running_var: Any, scale: Any, bias: Any) -> list[jax.Array]:
            mean, r, factor, shift, new_mean, new_var = of_vectors(x, running_mean, running_var, scale, bias)
            return [*Affine().form(factor, shift, x, mean), new_mean, new_var, mean, r]

        return form

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, scale = operands[0], operands[3]
        x_dot, running_mean_dot, running_var_dot, scale_dot, bias_dot = tangents
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
        if is_given(running_mean_dot):
            new_mean_dot += self.momentum * running_mean_dot
        if is_given(running_var_dot):
            new_var_dot += self.momentum * running_var_dot
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
