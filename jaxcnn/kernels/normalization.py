"""Batch normalization in training and evaluation.

Let a channel have m values, mean mu and variance v, `r = 1 / sqrt(v + epsilon)` and `f = r scale`. The output is
`y = (x - mu) f + bias` (Ioffe and Szegedy, *Batch Normalization*, 2015). The map

    `L(u) = f (u - sum u / m - (x - mu) r^2 sum (u (x - mu)) / m)`

is the derivative of y with respect to x in the direction u (section 3 of the paper). For tangents u, s and b of x,
scale and bias, T is the tangent of y. G is the adjoint of T, for a cotangent g of y:

    `T(u, s, b) = L(u) + (x - mu) r s + b`  and  `G(g) = L(g), r sum (g (x - mu)), sum g`.

The results of G are the gradients with respect to x, scale and bias. The maps T (tangent) and G (gradient) are adjoints
of each other. The kernels for y, T and G therefore suffice for derivatives of every order.

A residual R and a ReLU may follow: `y = max(0, BN(x) + R)`. Let the mask k be 1 where y is above 0, else 0. The tangent
of y is then `k (T(u, s, b) + R')`, where R' is the tangent of R. The adjoint of this tangent is `G(k g)`, and the
gradient with respect to R is `k g`.

In JAX operations, a batch normalization has a dozen small computations on vectors `[C]`. XLA on a CPU takes longer to
compile these computations than the network's real work. The native library does all these computations in one call for
the forward pass and one call for the backward pass. In bfloat16, the same call also computes the arrays `[..., C]`,
because XLA rounds after each operation, in software. In float32, XLA computes these arrays as fast as the native
library.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, instantiated, is_given
from jaxcnn.kernels.axes import is_bound, needs_mean
from jaxcnn.kernels.reductions import LEAST_VALUES, Affine, affine, channel_sums, is_native_size, row
from jaxcnn.kernels.statistics import (
    count_of_values,
    known_center,
    sample_mean,
    statistics_around,
    statistics_of_whole_batch,
)
from jaxcnn.kernels.synchronized import Groups, is_narrower

LEAST_CHANNELS = 24
"""With fewer channels, XLA also computes the vectors of a float32 output.

Native code would not be faster: LLVM unrolls the remaining short loop over channels, and does not vectorize this loop.
With 16 channels, the forward pass would run at 0.6 of XLA's speed; from 24 channels on, the speed is equal.
"""


SETTINGS = ("momentum", "epsilon", "unbiased", "axis_name", "axis_index_groups", "reduce_dtype", "dtype")
"""Arguments of `batch_norm` that are settings instead of arrays. `pooled_batch_norm` has the same settings."""


# A deep network has hundreds of batch normalizations of few shapes. `jit` traces and differentiates each shape once.
@functools.partial(
    jax.jit,
    static_argnames=(*SETTINGS, "relu"),
)
def batch_norm(
    x: Shaped[InputArray, "*positions c"],
    running_mean: Float[InputArray, " c"],
    running_var: Float[InputArray, " c"],
    scale: Float[InputArray, " c"] | None,
    bias: Float[InputArray, " c"] | None,
    *,
    momentum: float,
    epsilon: float,
    unbiased: bool,
    axis_name: str | None = None,
    axis_index_groups: Groups | None = None,
    reduce_dtype: Any = "float32",
    residual: Shaped[InputArray, "*positions c"] | None = None,
    relu: bool = False,
    dtype: Any = None,
) -> tuple[Float[Array, "*positions c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalize a batch by its own statistics, then add `residual` if given, and apply a ReLU if `relu` is true.

    Args:
      x: `[..., C]`.
      running_mean, running_var, scale, bias: `[C]`. None stands for a scale of ones or a bias of zeros.
      momentum, epsilon, unbiased, axis_index_groups, reduce_dtype: as in `jaxcnn.layers.BatchNorm`.
      axis_name: as in `jaxcnn.layers.BatchNorm`; an unbound name counts as None.
      residual: array `[..., C]` that is added to the normalized x, or None.
      relu: whether the output is `max(0, y)`, whose derivative at 0 is 0.
      dtype: dtype of the output. The computed values are rounded once, to this dtype. None uses float32 or the dtype of
        x, whichever is wider.

    Returns:
      The output `[..., C]`, and the new running mean and variance `[C]` in the dtypes of `running_mean` and
      `running_var`.

    >>> x, mean, var = jnp.array([[1.0], [3.0]]), jnp.zeros(1), jnp.ones(1)
    >>> y, mean, var = batch_norm(x, mean, var, None, None, momentum=0.5, epsilon=0.0, unbiased=True)
    >>> y.round(3).tolist(), mean.round(3).tolist()
    ([[-1.0], [1.0]], [1.0])
    """
    vectors = wide_vectors(x, running_mean, running_var, scale, bias)
    axis_name = axis_name if axis_name is not None and is_bound(axis_name) else None
    others = () if residual is None else (residual.astype(dtype or vectors[0].dtype),)
    if axis_name is None or not needs_mean(axis_name, x):
        kernel = BatchNorm(momentum, epsilon, unbiased, relu, dtype and jnp.dtype(dtype))
        y, new_mean, new_var, *_ = call(kernel, x, *vectors, *others)
    else:
        wide_mean, wide_var, gamma, beta = vectors
        near = known_center(wide_mean)
        center, offset, var, count = statistics_of_whole_batch(x, near, axis_name, axis_index_groups, reduce_dtype)
        y = finished(normalized(x, center, offset, var, gamma, beta, epsilon), others, relu=False, dtype=None)
        y = _rectified(jnp.dtype(dtype or y.dtype), y) if relu else y.astype(dtype or y.dtype)
        new_mean = momentum * wide_mean + (1 - momentum) * (center + offset)
        new_var = momentum * wide_var + (1 - momentum) * bessel(count, unbiased) * var
    return y, new_mean.astype(running_mean.dtype), new_var.astype(running_var.dtype)


def normalize(
    x: Shaped[InputArray, "*positions c"], mean: Any, var: Any, scale: Any, bias: Any, *, epsilon: float
) -> Float[Array, "*positions c"]:
    """Normalize `[..., C]` by given statistics `[C]`, and return the result in float32 or the dtype of x if wider.

    >>> normalize(jnp.array([[3.0]]), jnp.array([1.0]), jnp.array([4.0]), None, None, epsilon=0.0).round(3).tolist()
    [[1.0]]
    """
    wide_mean, wide_var, gamma, beta = wide_vectors(x, mean, var, scale, bias)
    center = jax.lax.stop_gradient(wide_mean)
    return normalized(x, center, wide_mean - center, wide_var, gamma, beta, epsilon)


def wide_vectors(x: jax.Array, mean: Any, var: Any, scale: Any, bias: Any) -> list[jax.Array]:
    """Return the vectors `[C]` of the normalization in the dtype of the computation: float32 or wider."""
    wide, channels = jnp.promote_types(x.dtype, jnp.float32), x.shape[-1:]
    gamma = jnp.ones(channels, wide) if scale is None else scale
    beta = jnp.zeros(channels, wide) if bias is None else bias
    return [vector.astype(wide) for vector in (mean, var, gamma, beta)]


def normalized(x: jax.Array, center: Any, offset: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> jax.Array:
    """Normalize by the mean `center + offset`. The center has no gradient, which would need another sum."""
    factor = jax.lax.rsqrt(var + epsilon) * gamma
    return affine(factor, beta - offset * factor, x, center)


def bessel(count: Any, unbiased: bool) -> Any:
    """Return Bessel's correction, `m / (m - 1)`, also for a symbolic number of values."""
    if not unbiased:
        return 1.0
    return count / (max(count - 1, 1) if isinstance(count, int) else jnp.maximum(count - 1, 1))


@dataclass(frozen=True)
class BatchNorm(Kernel):
    """Return the output y, the new running mean and variance, the mean mu, and `r = 1 / sqrt(variance + epsilon)`.

    The operands are x `[..., C]`, and the vectors `[C]`: running mean, running variance, scale and bias. A residual R
    `[..., C]` in the dtype of y may be the last operand.

    Attributes:
      momentum, epsilon, unbiased, relu: as in `batch_norm`.
      dtype: dtype of y; None uses the dtype of the vectors.
    """

    momentum: float
    epsilon: float
    unbiased: bool
    relu: bool = False
    dtype: Any = None

    def outputs(self, x: Any, running_mean: Any, *_: Any) -> list[Any]:
        y = x.update(dtype=self.dtype or running_mean.dtype, weak_type=False)
        return [y, *[running_mean.update(weak_type=False)] * 4]

    def form(self, x: Any, running_mean: Any, *others: Any) -> list[jax.Array]:
        if not is_narrower(x.dtype, running_mean.dtype):
            return self.cpu_form(x, running_mean, *others)
        # The center is known before x, so that XLA can compute the sums in the pass that computes x.
        return self._around(known_center(running_mean), rounded, x, running_mean, *others)

    def cpu_form(self, x: Any, running_mean: Any, *others: Any) -> list[jax.Array]:
        return self._around(sample_mean(x, running_mean.dtype), finished, x, running_mean, *others)

    def _around(
        self, near: Any, finish: Any, x: Any, running_mean: Any, running_var: Any, scale: Any, bias: Any, *residual: Any
    ) -> list[jax.Array]:
        """Compute the kernel from sums around the center `near`, which is close to the mean."""
        center = jax.lax.stop_gradient(near)
        offset, var = statistics_around(x, center)
        mean = center + offset
        y = normalized(x, center, offset, var, scale, bias, self.epsilon)
        return [
            finish(y, residual, self.relu, self.dtype),
            self.momentum * running_mean + (1 - self.momentum) * mean,
            self.momentum * running_var + (1 - self.momentum) * bessel(count_of_values(x), self.unbiased) * var,
            mean,
            jax.lax.rsqrt(var + self.epsilon),
        ]

    def native(self, x: Any, running_mean: Any, *others: Any) -> Form | None:
        vectors, residual = (running_mean, *others[:3]), others[3:]
        numbers = self.momentum, self.epsilon, bessel(count_of_values(x), self.unbiased)
        outputs = self.outputs(x, running_mean)
        if is_native(x, vectors, outputs[0], *residual):
            whole = native.function(
                native.BATCH_NORM, outputs, numbers=[*map(float, numbers), float(self.relu), float(bool(residual))]
            )
            return lambda x, *others: whole(x, *others[:4], *(others[4:] or (x,)))
        if not is_native_size(x, *vectors) or x.shape[-1] < LEAST_CHANNELS:
            return None
        of_vectors = native.function(native.NORMALIZATION, [running_mean] * 6, numbers=numbers)

        def form(x: Any, running_mean: Any, running_var: Any, scale: Any, bias: Any, *residual: Any) -> list[jax.Array]:
            mean, r, factor, shift, new_mean, new_var = of_vectors(x, running_mean, running_var, scale, bias)
            y = finished(Affine().form(factor, shift, x, mean)[0], residual, self.relu, self.dtype)
            return [y, new_mean, new_var, mean, r]

        return form

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, scale, residual = operands[0], operands[3], operands[5:]
        x_dot, running_mean_dot, running_var_dot, scale_dot, bias_dot, *residual_dot = tangents
        y, mean, r = outputs[0], *outputs[3:]
        by_scale, by_bias = instantiated(scale_dot, mean), instantiated(bias_dot, mean)
        added = [instantiated(dot, value) for dot, value in zip(residual_dot, residual, strict=True)]
        if is_given(x_dot):
            kernel = Tangent(self.relu, bool(residual), y.dtype)
            y_dot = call(kernel, x_dot, by_scale, by_bias, *added, x, mean, r, scale, *[y] * self.relu)[0]
            total, product = channel_sums(x_dot, x, mean)
            mean_dot, variance_dot = total / count_of_values(x), 2 * product / count_of_values(x)
        else:
            y_dot = affine(r * by_scale, by_bias, x, mean)
            y_dot = masked(finished(y_dot, added, relu=False, dtype=y.dtype), *[y] * self.relu)
            mean_dot = variance_dot = jnp.zeros_like(mean)
        new_mean_dot = (1 - self.momentum) * mean_dot
        new_var_dot = (1 - self.momentum) * bessel(count_of_values(x), self.unbiased) * variance_dot
        if is_given(running_mean_dot):
            new_mean_dot += self.momentum * running_mean_dot
        if is_given(running_var_dot):
            new_var_dot += self.momentum * running_var_dot
        return [y_dot, new_mean_dot, new_var_dot, mean_dot, -0.5 * r**3 * variance_dot]


@dataclass(frozen=True)
class Tangent(Kernel):
    """The tangent of the output y, for tangents u, s, b and R' of x, scale, bias and residual.

    The operands are (u, s, b, R', x, mu, r, scale, y), where `BatchNorm` returns mu, r and y.

    Attributes:
      relu: whether a ReLU follows. Without a ReLU, there is no operand y.
      residual: whether there is an operand R'.
      dtype: dtype of the result, of R' and of y.
    """

    relu: bool
    residual: bool
    dtype: Any

    def linear_groups(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(3 + self.residual)),)

    def outputs(self, u: Any, *_: Any) -> list[Any]:
        return [u.update(dtype=self.dtype, weak_type=False)]

    def form(self, u: Any, s: Any, b: Any, *others: Any) -> list[jax.Array]:
        added, (x, mean, r, scale, *y) = others[: self.residual], others[self.residual :]
        inner, factor, shift, _, _ = _parts(u, x, mean, r, scale)
        total = inner + affine(factor + r * s, shift + b, x, mean)
        return [masked(finished(total, added, relu=False, dtype=self.dtype), *y)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        others = operands[len(group) :]
        returns_residual = self.relu and self.residual
        results = call(Gradient(self.relu, returns_residual, self.dtype), cts[0], *others)
        return [*results, cts[0]] if self.residual and not self.relu else [*results]


@dataclass(frozen=True)
class Gradient(Kernel):
    """The gradients with respect to x (in the dtype of x), scale and bias, for a cotangent g of the output y.

    The operands are (g, x, mu, r, scale, y), where `BatchNorm` returns mu, r and y.

    Attributes:
      relu: whether a ReLU follows. Without a ReLU, there is no operand y.
      residual: whether the gradient with respect to the residual is returned as a fourth result.
      dtype: dtype of g, of y and of the gradient with respect to the residual.
    """

    linear: ClassVar = ((0,),)

    relu: bool
    residual: bool
    dtype: Any

    def outputs(self, g: Any, x: Any, mean: Any, *_: Any) -> list[Any]:
        of_vectors = [mean.update(weak_type=False)] * 2
        return [x.update(weak_type=False), *of_vectors, *[g.update(weak_type=False)] * self.residual]

    def form(self, g: Any, x: Any, mean: Any, r: Any, scale: Any, *y: Any) -> list[jax.Array]:
        own = masked(g, *y)
        inner, factor, shift, by_scale, by_bias = _parts(own, x, mean, r, scale)
        by_x = inner + affine(factor, shift, x, mean)
        return [by_x.astype(x.dtype), by_scale, by_bias, *[own] * self.residual]

    def native(self, g: Any, x: Any, mean: Any, r: Any, scale: Any, *y: Any) -> Form | None:
        if is_native(x, (mean, r, scale), g):
            by_residual = g if self.residual else g.update(shape=(0,))
            outputs = [*self.outputs(g, x, mean)[:3], by_residual]
            whole = native.function(native.BATCH_NORM_GRADIENT, outputs, numbers=[float(self.relu)])

            def form(g: Any, x: Any, mean: Any, r: Any, scale: Any, *y: Any) -> Sequence[jax.Array]:
                return whole(g, x, *(y or (x,)), mean, r, scale)[: 3 + self.residual]

            return form
        if not is_native_size(g, x, mean, r, scale):
            return None
        of_vectors = native.function(native.NORMALIZATION_GRADIENT, [mean] * 5)

        def applied(g: Any, x: Any, mean: Any, r: Any, scale: Any, *y: Any) -> list[jax.Array]:
            own = masked(g, *y)
            f, factor, shift, by_scale, by_bias = of_vectors(own, x, mean, r, scale)
            by_x = jax.lax.add(jax.lax.mul(own, row(f, g)), Affine().form(factor, shift, x, mean)[0])
            return [by_x, by_scale, by_bias, *[own] * self.residual]

        return applied

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        by_x, by_scale, by_bias, *by_residual = cts
        kernel = Tangent(self.relu, self.residual, self.dtype)
        return [*call(kernel, by_x, by_scale, by_bias, *by_residual, *operands[1:])]


def is_native(x: Any, vectors: Sequence[Any], *others: Any) -> bool:
    """Return whether one native call supports these operands: bfloat16 images and float32 vectors."""
    is_large = math.prod(x.shape) >= LEAST_VALUES
    return is_large and all(v.dtype == "bfloat16" for v in (x, *others)) and all(v.dtype == "float32" for v in vectors)


def finished(y: jax.Array, residual: Sequence[jax.Array], relu: bool, dtype: Any) -> jax.Array:
    """Return `y + residual`, with a ReLU if `relu` is true, rounded once to `dtype`; None keeps the dtype of y."""
    for value in residual:
        y = jax.lax.add(y, value.astype(y.dtype))
    return (jax.nn.relu(y) if relu else y).astype(dtype or y.dtype)


def rounded(y: jax.Array, residual: Sequence[jax.Array], relu: bool, dtype: Any) -> jax.Array:
    """Return the same as `finished`, but round before the ReLU.

    XLA would drop a rounding between the ReLU and the sum with the next residual, because both are in float32. XLA for
    GPUs would then write the output of a block twice: in float32 and in bfloat16.
    """
    y = finished(y, residual, relu=False, dtype=dtype)
    return jax.nn.relu(y) if relu else y


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rectified(dtype: Any, y: jax.Array) -> jax.Array:
    """Return `max(0, y)` in `dtype`. The derivative uses the result, which is in memory anyway, and not y."""
    return rounded(y, (), relu=True, dtype=dtype)


@_rectified.defjvp
def _(dtype: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    result = _rectified(dtype, *primals)
    return result, masked(tangents[0].astype(dtype), result)


def masked(g: jax.Array, y: jax.Array | None = None) -> jax.Array:
    """Return `g` where `y`, the output of a ReLU, is above 0, else 0. Return `g` unchanged if `y` is None."""
    return g if y is None else jax.lax.select(jax.lax.gt(y, jax.lax.full_like(y, 0)), g, jax.lax.full_like(g, 0))


def _parts(u: Any, x: Any, mean: Any, r: Any, scale: Any) -> tuple[jax.Array, ...]:
    """Return `f u`; a factor a and a shift b with `L(u) = f u + (x - mu) a + b`; `r sum (u (x - mu))`; and `sum u`."""
    total, product = channel_sums(u, x, mean)
    f, count = r * scale, count_of_values(x)
    by_scale = r * product
    return u.astype(f.dtype) * row(f, u), -f * r * by_scale / count, -f * total / count, by_scale, total
