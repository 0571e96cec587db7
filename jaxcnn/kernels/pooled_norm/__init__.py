"""Batch normalization, ReLU and max pooling as one kernel, in training.

Let y be the output of batch normalization and ReLU, and p the largest values of windows of y.
`jaxcnn.kernels.normalization` and `jaxcnn.kernels.pooling` define y, p and their derivatives. On all platforms except
TPUs, the kernels in this module call the kernels in these two modules.

A TPU does not need y. Each channel of y is a nondecreasing function of `z = sign(scale) x`. Therefore, p follows from
q, the largest values of the same windows of z: `p = max(0, (sign(scale) q - mu) r scale + bias)`. A cotangent g of p
reaches x at the positions of q where p is above 0. The sums of g over the positions of x are then sums over windows:

    `sum g [p > 0]`  and  `sum g [p > 0] (sign(scale) q - mu)`.

In the first layers of a network for photographs, y is the largest array, and p has a quarter of the size of y. A
program without y saves its memory traffic in the forward and backward pass. Multiplication by the sign is exact, and
XLA applies it while the preceding convolution writes x.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels._primitive import Kernel, call, instantiated
from jaxcnn.kernels.axes import is_bound, needs_mean
from jaxcnn.kernels.normalization import (
    SETTINGS,
    BatchNorm,
    Gradient,
    Tangent,
    batch_norm,
    bessel,
    masked,
    normalized,
    rounded,
    wide_vectors,
)
from jaxcnn.kernels.pooling import AddedToLargest, MaxPool, TakenLargest, Windows, is_kernel, max_pool
from jaxcnn.kernels.reductions import affine, channel_sums, row
from jaxcnn.kernels.statistics import count_of_values, known_center, sample_mean, statistics_around
from jaxcnn.kernels.synchronized import Groups, is_narrower


@functools.partial(
    jax.jit,
    static_argnames=(*SETTINGS, "windows"),
)
def pooled_batch_norm(
    x: Shaped[InputArray, "n h w c"],
    running_mean: Float[InputArray, " c"],
    running_var: Float[InputArray, " c"],
    scale: Float[InputArray, " c"] | None,
    bias: Float[InputArray, " c"] | None,
    *,
    windows: Windows,
    momentum: float,
    epsilon: float,
    unbiased: bool,
    axis_name: str | None = None,
    axis_index_groups: Groups | None = None,
    reduce_dtype: Any = "float32",
    dtype: Any = None,
) -> tuple[Float[Array, "n h2 w2 c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalize a batch by its own statistics, apply a ReLU, and return the largest value of each window.

    `batch_norm` describes the arguments other than `windows`; x are images `[N, H, W, C]`.

    Returns:
      The largest values `[N, H_out, W_out, C]`, and the new running mean and variance `[C]`.

    >>> x, windows = jnp.arange(16.0).reshape(1, 4, 4, 1), Windows((2, 2), (2, 2), ((0, 0), (0, 0)))
    >>> rates = {"momentum": 0.9, "epsilon": 1e-5, "unbiased": True}
    >>> p, mean, var = pooled_batch_norm(x, jnp.zeros(1), jnp.ones(1), None, None, windows=windows, **rates)
    >>> p.shape, f"{mean.item():.3f}"
    ((1, 2, 2, 1), '0.750')
    """
    rates = {"momentum": momentum, "epsilon": epsilon, "unbiased": unbiased}
    dtype = None if dtype is None else jnp.dtype(dtype)
    is_synchronized = axis_name is not None and is_bound(axis_name) and needs_mean(axis_name, x)
    if is_synchronized or not is_kernel(x):
        over = {"axis_name": axis_name, "axis_index_groups": axis_index_groups, "reduce_dtype": reduce_dtype}
        y, *running = batch_norm(x, running_mean, running_var, scale, bias, **rates, **over, relu=True, dtype=dtype)
        return max_pool(y, *windows), *running
    kernel = PooledBatchNorm(BatchNorm(**rates, relu=True, dtype=dtype), windows)
    p, new_mean, new_var, *_ = call(kernel, x, *wide_vectors(x, running_mean, running_var, scale, bias))
    return p, new_mean.astype(running_mean.dtype), new_var.astype(running_var.dtype)


@dataclass(frozen=True)
class PooledBatchNorm(Kernel):
    """Return the largest values p of all windows, then all results of `norm` except its output y, then y.

    The operands are the same as the operands of `norm`. On a TPU, the derivative does not use y, so that XLA never
    computes y in a training step.
    """

    norm: BatchNorm
    windows: Windows

    def outputs(self, *operands: Any) -> list[Any]:
        y, *others = self.norm.outputs(*operands)
        return [*MaxPool(self.windows).outputs(y), *others, y]

    def form(self, *operands: jax.Array) -> list[jax.Array]:
        y, *others = call(self.norm, *operands)
        return [*call(MaxPool(self.windows), y), *others, y]

    def tpu_form(self, x: Any, running_mean: Any, running_var: Any, scale: Any, bias: Any) -> list[jax.Array]:
        norm, sign = self.norm, _signs(scale)
        z = x * row(sign.astype(x.dtype), x)
        is_narrow = is_narrower(x.dtype, running_mean.dtype)
        near = sign * known_center(running_mean) if is_narrow else sample_mean(z, running_mean.dtype)
        center = jax.lax.stop_gradient(near)
        offset, var = statistics_around(z, center)
        p, y = (
            rounded(normalized(of, center, offset, var, sign * scale, bias, norm.epsilon), (), True, norm.dtype)
            for of in (call(MaxPool(self.windows), z)[0], z)
        )
        mean, correction = sign * (center + offset), bessel(count_of_values(x), norm.unbiased)
        return [
            p,
            norm.momentum * running_mean + (1 - norm.momentum) * mean,
            norm.momentum * running_var + (1 - norm.momentum) * correction * var,
            mean,
            jax.lax.rsqrt(var + norm.epsilon),
            y,
        ]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, scale, (p, *others, y) = operands[0], operands[3], outputs
        of_norm = self.norm.derivative(operands, [y, *others], tangents)
        dots = [instantiated(tangents[i], operands[i]) for i in (0, 3, 4)]
        p_dot = call(PooledTangent(self.windows, p.dtype), *dots, x, *others[2:], scale, p, y)[0]
        return [p_dot, *of_norm[1:], of_norm[0]]


@dataclass(frozen=True)
class PooledTangent(Kernel):
    """The tangent of the largest values p, for tangents u, s and b of x, scale and bias.

    The operands are (u, s, b, x, mu, r, scale, p, y), where `PooledBatchNorm` returns mu, r, p and y.

    Attributes:
      windows: size, strides and padding of the windows.
      dtype: dtype of p and y.
    """

    windows: Windows
    dtype: Any
    linear: ClassVar = ((0, 1, 2),)

    def outputs(self, u: Any, *others: Any) -> list[Any]:
        return [others[-2].update(weak_type=False)]

    def form(self, u: Any, s: Any, b: Any, *others: Any) -> list[jax.Array]:
        *of_norm, _, y = others
        y_dot = call(Tangent(relu=True, residual=False, dtype=self.dtype), u, s, b, *of_norm, y)[0]
        return [*call(TakenLargest(self.windows), y, y_dot)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(PooledGradient(self.windows, self.dtype), cts[0], *operands[3:])]


@dataclass(frozen=True)
class PooledGradient(Kernel):
    """The gradients with respect to x, scale and bias, for a cotangent g of the largest values p.

    The operands are (g, x, mu, r, scale, p, y), where `PooledBatchNorm` returns mu, r, p and y.

    The attributes are the same as in `PooledTangent`.
    """

    windows: Windows
    dtype: Any
    linear: ClassVar = ((0,),)

    def outputs(self, g: Any, x: Any, mean: Any, *_: Any) -> list[Any]:
        return [x.update(weak_type=False), *[mean.update(weak_type=False)] * 2]

    def form(self, g: Any, x: Any, mean: Any, r: Any, scale: Any, p: Any, y: Any) -> list[jax.Array]:
        own = call(AddedToLargest(self.windows), y, g)[0]
        return [*call(Gradient(relu=True, residual=False, dtype=self.dtype), own, x, mean, r, scale, y)]

    def tpu_form(self, g: Any, x: Any, mean: Any, r: Any, scale: Any, p: Any, y: Any) -> list[jax.Array]:
        own, sign = masked(g, p), _signs(scale)
        z, center = x * row(sign.astype(x.dtype), x), sign * mean
        q = call(MaxPool(self.windows), z)[0]  # XLA merges this call with the same call in the forward pass
        total, product = channel_sums(own, q, center)
        count, f = count_of_values(x), r * scale
        placed = call(AddedToLargest(self.windows), z, own)[0].astype(f.dtype)
        by_x = placed * row(f, x) + affine(-f * r * r * product / count, -f * total / count, z, center)
        return [by_x.astype(x.dtype), sign * r * product, total]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(PooledTangent(self.windows, self.dtype), *cts, *operands[1:])]


def _signs(scale: jax.Array) -> jax.Array:
    """Return -1 for each channel whose scale is negative, else 1."""
    return jnp.where(scale < 0, -1, 1).astype(scale.dtype)
