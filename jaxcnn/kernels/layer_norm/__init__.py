"""Layer normalization over the last axis, and its derivatives.

Let a row x `[C]` have mean mu and variance v, `r = 1 / sqrt(v + epsilon)` and `n = (x - mu) r`. The output is
`y = n scale + bias` (Ba, Kiros and Hinton, *Layer Normalization*, 2016). The map `L(u) = r (u - mean u - n mean (n u))`
is its own adjoint. For tangents u, s and b of x, scale and bias, T is the tangent of y. G is the adjoint of T, for a
cotangent g of y:

    `T(u, s, b) = L(u) scale + n s + b`  and  `G(g) = L(g scale), sum g n, sum g`.

The results of G are the gradients with respect to x, scale and bias, with sums over all rows. The maps T (tangent) and
G (gradient) are adjoints of each other. The kernels for y, T and G therefore suffice for derivatives of every order.
The native library reads the data once in the forward pass and once in the backward pass; XLA on a CPU reads the data
once for each mean.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, instantiated, is_given
from jaxcnn.kernels.reductions import LEAST_VALUES, row


def layer_norm(
    x: Shaped[InputArray, "*positions c"],
    scale: Float[InputArray, " c"],
    bias: Float[InputArray, " c"],
    *,
    epsilon: float,
    dtype: Any,
) -> Float[Array, "*positions c"]:
    """Normalize each row of `[..., C]` to mean 0 and variance 1, then multiply by `scale` and add `bias`.

    Args:
      x: `[..., C]`.
      scale, bias: `[C]` in float32 or the dtype of x, whichever is wider. All computations use this dtype.
      epsilon: added to the variance.
      dtype: dtype of the result. The computed values are rounded once, to this dtype.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.zeros(2), epsilon=0.0, dtype="float32").round(3).tolist()
    [[-1.0, 1.0]]
    """
    return call(LayerNorm(epsilon, jnp.dtype(dtype)), x, scale, bias)[0]


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """The kernel of `layer_norm`. It returns the output y, and for each row the mean mu and the factor r.

    The operands are (x, scale, bias), and `r = 1 / sqrt(variance + epsilon)`. The results mu and r are `[..., 1]`.

    Attributes:
      epsilon: added to the variance.
      dtype: dtype of y.
    """

    epsilon: float
    dtype: Any

    def outputs(self, x: Any, scale: Any, bias: Any) -> list[Any]:
        of_rows = x.update(shape=(*x.shape[:-1], 1), dtype=scale.dtype, weak_type=False)
        return [x.update(dtype=self.dtype, weak_type=False), of_rows, of_rows]

    def form(self, x: jax.Array, scale: jax.Array, bias: jax.Array) -> list[jax.Array]:
        y = x.astype(scale.dtype)
        mean = y.mean(-1, keepdims=True)
        centered = y - mean
        r = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.epsilon)
        return [(centered * r * row(scale, x) + row(bias, x)).astype(self.dtype), mean, r]

    def native(self, x: Any, scale: Any, bias: Any) -> Form | None:
        if not _is_native(x, scale, self.dtype):
            return None
        return native.function(native.LAYER_NORM, self.outputs(x, scale, bias), numbers=[self.epsilon])

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        (x, scale, bias), (_, mean, r), (x_dot, scale_dot, bias_dot) = operands, outputs, tangents
        vectors = instantiated(scale_dot, scale), instantiated(bias_dot, bias)
        y_dot = call(Tangent(self.dtype), instantiated(x_dot, x), *vectors, x, mean, r, scale)[0]
        if not is_given(x_dot):
            return [y_dot, jnp.zeros_like(mean), jnp.zeros_like(r)]
        wide = x_dot.astype(scale.dtype)
        product = (wide * (x.astype(scale.dtype) - mean)).mean(-1, keepdims=True)
        return [y_dot, wide.mean(-1, keepdims=True), -(r**3) * product]


@dataclass(frozen=True)
class Tangent(Kernel):
    """The tangent of the output for tangents u, s and b of x, scale and bias.

    The operands are (u, s, b, x, mu, r, scale), where `LayerNorm` returns mu and r.

    Attributes:
      dtype: dtype of the result.
    """

    linear: ClassVar = ((0, 1, 2),)

    dtype: Any

    def outputs(self, u: Any, *_: Any) -> list[Any]:
        return [u.update(dtype=self.dtype, weak_type=False)]

    def form(self, u: Any, s: Any, b: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[jax.Array]:
        n = (x.astype(scale.dtype) - mean) * r
        inner = _normal(u.astype(scale.dtype), n, r)
        return [(inner * row(scale, x) + n * row(s, x) + row(b, x)).astype(self.dtype)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return list(call(Gradient(self.dtype), cts[0], *operands[3:]))


@dataclass(frozen=True)
class Gradient(Kernel):
    """The gradients with respect to x (in the dtype of x), scale and bias, for a cotangent g of the output.

    The operands are (g, x, mu, r, scale), where `LayerNorm` returns mu and r.

    Attributes:
      dtype: dtype of g.
    """

    linear: ClassVar = ((0,),)

    dtype: Any

    def outputs(self, g: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[Any]:
        return [x.update(weak_type=False), *[scale.update(weak_type=False)] * 2]

    def form(self, g: Any, x: Any, mean: Any, r: Any, scale: Any) -> list[jax.Array]:
        n, wide, axes = (x.astype(scale.dtype) - mean) * r, g.astype(scale.dtype), tuple(range(g.ndim - 1))
        by_x = _normal(wide * row(scale, x), n, r).astype(x.dtype)
        return [by_x, (wide * n).sum(axes), wide.sum(axes)]

    def native(self, g: Any, x: Any, mean: Any, r: Any, scale: Any) -> Form | None:
        if not _is_native(x, scale, g.dtype):
            return None
        return native.function(native.LAYER_NORM_GRADIENT, self.outputs(g, x, mean, r, scale))

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return list(call(Tangent(self.dtype), *cts, *operands[1:]))


def _normal(u: jax.Array, n: jax.Array, r: jax.Array) -> jax.Array:
    """Return `L(u) = r (u - mean u - n mean (n u))`, where n is the normalized row, with means over the last axis."""
    return r * (u - u.mean(-1, keepdims=True) - n * (u * n).mean(-1, keepdims=True))


def _is_native(x: Any, scale: Any, dtype: Any) -> bool:
    """Return whether the native library supports these operands and this dtype of the result."""
    is_known = x.dtype in ("float32", "bfloat16") and x.dtype == dtype and scale.dtype == "float32"
    return is_known and math.prod(x.shape) >= LEAST_VALUES
