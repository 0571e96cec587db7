"""Convolution for inference: `f(W * X + b + R)`, computed in one pass.

X are images, the kernel W and the bias b are constants, R is a residual, and f is an activation.

On a CPU, this convolution is one call of oneDNN or of Winograd's algorithm. For each such call in a program, W is
packed once into the layout of the library. On other platforms, XLA fuses the operations of `form`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, instantiated, is_given, merged
from jaxcnn.kernels.convolution import Convolution, Geometry, Role, product, windows
from jaxcnn.kernels.elementwise import ACTIVATIONS
from jaxcnn.kernels.reductions import row

Content = tuple[int, int]


def fused_conv(
    geometry: Geometry, activation: str | None, x: Any, kernel: np.ndarray, bias: np.ndarray, residual: Any = None
) -> jax.Array:
    """Return `activation(kernel * x + bias + residual)`, `[N, H_out, W_out, C_out]` in the dtype of x.

    Args:
      geometry: shapes, strides, padding, dilation and groups.
      activation: name in `jaxcnn.kernels.elementwise.ACTIVATIONS`, or None.
      x: images `[N, H, W, C_in]`.
      kernel: constant `[kH, kW, C_in / groups, C_out]` in the dtype of x. The library packs `kernel` once; a digest of
        the bytes of `kernel` identifies the packed copy.
      bias: constant `[C_out]` in float32 or the dtype of x, whichever is wider.
      residual: array with the shape and dtype of the result, or None.
    """
    others = () if residual is None else (residual,)
    operands: Any = (x, kernel, bias, *others)
    return call(FusedConvolution(geometry, activation, content_of(kernel)), *operands)[0]


def content_of(array: np.ndarray) -> Content:
    """Return a digest of the bytes of an array, as two signed 64-bit integers."""
    content: Any = np.ascontiguousarray(array).view(np.uint8)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:], "little", signed=True)


@dataclass(frozen=True)
class FusedConvolution(Kernel):
    """The kernel of `fused_conv`, `f(W * X + b + R)`, with operands (X, W, b) or (X, W, b, R).

    The operand W must be the same array in every execution of a program, because the native form packs W in the first
    execution only. Call `fused_conv`, which requires W as a constant NumPy array.

    Attributes:
      geometry: shapes, strides, padding, dilation and groups.
      activation: name of f in `ACTIVATIONS`; None applies no activation.
      content: digest of W. Calls whose W have the same digest share one packed copy.
    """

    geometry: Geometry
    activation: str | None
    content: Content

    def outputs(self, x: Any, *_: Any) -> list[Any]:
        return [x.update(shape=self.geometry.output, weak_type=False)]

    def form(self, x: jax.Array, kernel: jax.Array, bias: jax.Array, *residual: jax.Array) -> list[jax.Array]:
        compute = product if self.geometry.is_product and self.geometry.image[:2] == (1, 1) else windows
        return [self._finished(compute(self.geometry, x, kernel), bias, residual)]

    def cpu_form(self, x: jax.Array, kernel: jax.Array, bias: jax.Array, *residual: jax.Array) -> list[jax.Array]:
        compute = product if self.geometry.is_product else windows
        return [self._finished(compute(self.geometry, x, kernel), bias, residual)]

    def native(self, x: Any, kernel: Any, bias: Any, *residual: Any) -> Form | None:
        geometry = self.geometry
        sides = zip(geometry.padding, geometry.reach, strict=True)
        is_known = x.dtype in ("float32", "bfloat16") and kernel.dtype == x.dtype and bias.dtype == "float32"
        if not is_known or geometry.is_small or any(max(pads) >= reach for pads, reach in sides):
            return None
        if native.is_fused_fast(self._key(x.dtype, residual)):
            return self._call(x, x.dtype, residual)
        if x.dtype == "bfloat16":
            # This processor has no bfloat16 instructions.
            wide = np.dtype("float32")
            is_fast = native.is_fused_fast(self._key(wide, residual))
            return self._widened(self._call(x.update(dtype=wide), wide, residual)) if is_fast else None
        alone = Convolution(Role.OUTPUT, geometry, kernel.dtype.name).native(x, kernel)
        if alone is None:
            return None
        return lambda x, kernel, bias, *residual: [self._finished(alone(x, kernel)[0], bias, residual)]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, kernel, _, *residual = operands
        x_dot, kernel_dot, bias_dot, *residual_dot = tangents
        (y,) = outputs
        plain = Convolution(Role.OUTPUT, self.geometry, kernel.dtype.name)
        parts = [call(plain, x_dot, kernel)[0]] if is_given(x_dot) else []
        if is_given(kernel_dot):
            parts.append(call(plain, x, kernel_dot)[0])
        if is_given(bias_dot):
            parts.append(row(bias_dot, y).astype(y.dtype))
        parts += [instantiated(dot, value) for dot, value in zip(residual_dot, residual, strict=True)]
        total = sum(parts[1:], start=parts[0])
        if self.activation == "relu":
            return [jnp.where(y > 0, total, jnp.zeros_like(total))]
        if self.activation is not None:
            before = call(replace(self, activation=None), *operands)[0]
            return [jax.jvp(ACTIVATIONS[self.activation], (before,), (total,))[1]]
        return [total]

    def batched(self, operands: Any, dims: Any) -> tuple[Sequence[jax.Array], Sequence[int]]:
        x, kernel, bias, *residual = operands
        if dims[1] is not None or dims[2] is not None:
            # Under `vmap`, each index of the mapped axis has its own W, so that no W can be packed.
            return jax.vmap(self.form, in_axes=tuple(dims))(*operands), [0]
        (x, *residual), places = merged([x, *residual], [dims[0], *dims[3:]])
        geometry = self.geometry._replace(image=(places * self.geometry.image[0], *self.geometry.image[1:]))
        y = call(replace(self, geometry=geometry), x, kernel, bias, *residual)[0]
        return [y.reshape(places, -1, *y.shape[1:])], [0]

    def _finished(self, y: jax.Array, bias: jax.Array, residual: Sequence[jax.Array]) -> jax.Array:
        """Return the result for `y`, the output of the convolution alone. Sums are in the dtype of the bias."""
        total = y.astype(bias.dtype) + row(bias, y)
        for value in residual:
            total = total + value.astype(bias.dtype)
        return (total if self.activation is None else ACTIVATIONS[self.activation](total)).astype(y.dtype)

    def _call(self, x: Any, dtype: Any, residual: Sequence[Any]) -> Form:
        key = self._key(np.dtype(dtype), residual)
        return native.function(native.FUSED_CONVOLUTION, self.outputs(x), key=key, content=self.content)

    def _widened(self, form: Form) -> Form:
        """Return an implementation for bfloat16 operands that computes in float32; packing widens the kernel."""

        def widened(x: jax.Array, kernel: jax.Array, bias: jax.Array, *residual: jax.Array) -> list[jax.Array]:
            wide = [value.astype(jnp.float32) for value in residual]
            return [form(x.astype(jnp.float32), kernel, bias, *wide)[0].astype(x.dtype)]

        return widened

    def _key(self, dtype: Any, residual: Sequence[Any]) -> tuple[int, ...]:
        """Return the numbers by which `fused.cpp` identifies the convolution."""
        g = self.geometry
        (top, bottom), (left, right) = g.padding
        exact = native.requires_exact_sums()
        number = 0 if self.activation is None else 1 + list(ACTIVATIONS).index(self.activation)
        flags = number, len(residual), int(dtype == jnp.bfloat16), int(exact)
        sizes = (*g.image, *g.kernel, *g.output)
        return (*sizes, *g.strides, top, left, bottom, right, *g.dilation, g.groups, *flags)
