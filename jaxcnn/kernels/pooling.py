"""Max pooling and average pooling of images, and their derivatives.

Both poolings map images `[N, H, W, C]` to `[N, H_out, W_out, C]`. Average pooling is linear, and its adjoint is its
gradient. Max pooling takes the largest value of each window. The derivative of max pooling takes the tangent at the
position of the largest value, and the gradient adds the cotangent at this position. Derivative and gradient are linear,
and each is the adjoint of the other. Derivative and gradient compute the position again from the images, so that the
forward pass does not store positions.

The native library computes values and gradients in float32 and bfloat16. XLA on a CPU computes the gradient of a
maximum as a scatter, which is 4 to 25 times slower than the gradient of slices. With few channels, the scatter and the
slices are slow.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.array_types import Array, Inexact, InputArray, Shaped
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, instantiated, is_given, merged
from jaxcnn.kernels.axes import varying_alike

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]

WIDEST_SLICED = 8
"""Largest height and width of a window that is computed from slices: each row and column adds an operation."""

LEAST_VALUES = 2**16
"""Smallest number of values in the images for which a call of the native library saves time.

On two cores with AVX-512, the forward pass and gradient of 2x2 max pooling in float32 take these times with native code
(with XLA): 0.06 ms (0.04 ms) for `[8, 28, 28, 6]`, 0.06 to 0.10 ms (0.08 ms) for `[16, 28, 28, 6]`, and 0.07 ms (0.12
ms) for `[64, 10, 10, 16]`.
"""


class Windows(NamedTuple):
    """Windows over the rows and columns of images: their size, strides and padding.

    >>> Windows(size=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))).outputs((8, 112, 112, 64))
    (56, 56)
    """

    size: Pair
    strides: Pair
    padding: Sides

    def outputs(self, image: Sequence[int]) -> Pair:
        """Return the number of rows and of columns of windows, for images `[N, H, W, C]`."""
        axes = zip(image[1:3], self.size, self.strides, self.padding, strict=True)
        rows, columns = ((n + sum(sides) - k) // s + 1 for n, k, s, sides in axes)
        return rows, columns


def max_pool(
    x: Shaped[InputArray, "n h w c"], window: Pair, strides: Pair, padding: Sides
) -> Shaped[Array, "n h2 w2 c"]:
    """Return the largest value of each window of images `[N, H, W, C]`, as `[N, H_out, W_out, C]`.

    Padding counts as the lowest value of the dtype. The maximum of a window that contains a NaN is NaN. The gradient
    goes to the largest value of a window. If several values are equally large, the gradient goes to the first of these
    values in row-major order.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2), ((0, 0), (0, 0))).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    windows = Windows(window, strides, padding)
    if not is_kernel(x):
        return _largest(windows, x)
    return call(MaxPool(windows), x)[0]


def avg_pool(
    x: Inexact[InputArray, "n h w c"], window: Pair, strides: Pair, padding: Sides, counted: Sides
) -> Inexact[Array, "n h2 w2 c"]:
    """Return the mean of each window of floating-point images `[N, H, W, C]`, as `[N, H_out, W_out, C]`.

    Padding counts as zeros. `counted` is the part of the padding, next to the image, whose rows and columns count as
    values of the mean. Sums are in float32 or wider.

    >>> none = ((0, 0), (0, 0))
    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2), none, none).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    kernel = AvgPool(Windows(window, strides, padding), counted, (x.shape[1], x.shape[2]))
    return call(kernel, x)[0] if is_kernel(x) else kernel.form(x)[0]


def is_kernel(x: jax.Array) -> bool:
    """Return whether kernels support an array: it has real floating-point values, and is not empty."""
    return jnp.issubdtype(x.dtype, jnp.floating) and not any(isinstance(n, int) and n == 0 for n in x.shape)


class _Pooling(Kernel):
    """A pooling kernel, which computes each image independently of the other images."""

    windows: Windows

    def batched(self, operands: Any, dims: Any) -> tuple[Sequence[jax.Array], Sequence[int]]:
        images, places = merged(operands, dims)
        (y,) = call(self, *images)
        return [y.reshape(places, -1, *y.shape[1:])], [0]

    def _call(self, name: str, image: Any, output: Any, counted: Sides = ((0, 0), (0, 0))) -> Form | None:
        """Return a function of the native library, or None if the library does not support the images."""
        if image.dtype not in ("float32", "bfloat16") or math.prod(image.shape) < LEAST_VALUES:
            return None
        (top, _), (left, _) = self.windows.padding
        key = (*self.windows.size, *self.windows.strides, top, left, *counted[0], *counted[1])
        return native.function(name, [output], key=key)


@dataclass(frozen=True)
class MaxPool(_Pooling):
    """The kernel of `max_pool`. Its operand is x."""

    windows: Windows

    def outputs(self, x: Any) -> list[Any]:
        return [_at_windows(x, self.windows)]

    def form(self, x: jax.Array) -> list[jax.Array]:
        return [_largest(self.windows, x)]

    def cpu_form(self, x: jax.Array) -> list[jax.Array]:
        return [_largest_on_cpu(self.windows, x)]

    def native(self, x: Any) -> Form | None:
        return self._call(native.MAX_POOL, x, *self.outputs(x))

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        return [*call(TakenLargest(self.windows), *operands, *tangents)]


@dataclass(frozen=True)
class TakenLargest(_Pooling):
    """The kernel with operands (x, u): return the values of u at the positions of the largest values of x.

    The images x and the tangent u are `[N, H, W, C]`.
    """

    windows: Windows
    linear: ClassVar = ((1,),)

    def outputs(self, x: Any, u: Any) -> list[Any]:
        return [_at_windows(u, self.windows)]

    def form(self, x: jax.Array, u: jax.Array) -> list[jax.Array]:
        return [_taken(_largest, self.windows, x, u)]

    def cpu_form(self, x: jax.Array, u: jax.Array) -> list[jax.Array]:
        return [_taken(_largest_on_cpu, self.windows, x, u)]

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(AddedToLargest(self.windows), operands[0], *cts)]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, u = operands
        return [*call(self, x, instantiated(tangents[1], u))] if is_given(tangents[1]) else [jnp.zeros_like(outputs[0])]


@dataclass(frozen=True)
class AddedToLargest(_Pooling):
    """The kernel with operands (x, g): add cotangents g at the positions of the largest values of the images x.

    Cotangents g are `[N, H_out, W_out, C]`.
    """

    windows: Windows
    linear: ClassVar = ((1,),)

    def outputs(self, x: Any, g: Any) -> list[Any]:
        return [g.update(shape=x.shape, weak_type=False)]

    def form(self, x: jax.Array, g: jax.Array) -> list[jax.Array]:
        return [_added(_largest, self.windows, x, g)]

    def cpu_form(self, x: jax.Array, g: jax.Array) -> list[jax.Array]:
        return [_added(_largest_on_cpu, self.windows, x, g)]

    def native(self, x: Any, g: Any) -> Form | None:
        return self._call(native.MAX_POOL_GRADIENT, x, *self.outputs(x, g))

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(TakenLargest(self.windows), operands[0], *cts)]

    def derivative(self, operands: Any, outputs: Any, tangents: Any) -> list[jax.Array]:
        x, g = operands
        return [*call(self, x, instantiated(tangents[1], g))] if is_given(tangents[1]) else [jnp.zeros_like(outputs[0])]


@dataclass(frozen=True)
class AvgPool(_Pooling):
    """The kernel of `avg_pool`. Its operand is images `[N, *image, C]`.

    Attributes:
      windows: size, strides and padding of the windows.
      counted: rows and columns of padding that are counted, as in `avg_pool`.
      image: rows and columns of the images.
    """

    windows: Windows
    counted: Sides
    image: Pair
    linear: ClassVar = ((0,),)

    def outputs(self, x: Any) -> list[Any]:
        return [_at_windows(x, self.windows)]

    def form(self, x: jax.Array) -> list[jax.Array]:
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # in bfloat16, 256 + 1 is 256
        total = _reduced(self.windows, values, 0, jax.lax.add)
        # The number of values in each window depends on shapes alone, so that it is a constant of the program.
        counts = np.outer(*(self._values_counted(axis, total.shape[1 + axis]) for axis in (0, 1)))
        counts = counts[:1, :1] if (counts == counts[0, 0]).all() else counts
        if x.dtype == "bfloat16" and counts.size == 1 and int(counts[0, 0]).bit_count() == 1:
            # Division by a power of 2 is exact. If the rounding came last, XLA for GPUs would drop it, and keep the
            # means in float32 too.
            return [total.astype(x.dtype) / counts.astype(x.dtype).reshape(1, 1, 1, 1)]
        return [(total / counts[None, :, :, None].astype(values.dtype)).astype(x.dtype)]

    def native(self, x: Any) -> Form | None:
        return self._call(native.AVG_POOL, x, self.outputs(x)[0], self.counted)

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(AvgPoolGradient(self.windows, self.counted, self.image), *cts)]

    def _values_counted(self, axis: int, outputs: int) -> np.ndarray:
        """Return the number of values that each of `outputs` windows averages along an axis."""
        (before, _), (low, high) = self.windows.padding[axis], self.counted[axis]
        starts = np.arange(outputs) * self.windows.strides[axis] - before
        return np.minimum(starts + self.windows.size[axis], self.image[axis] + high) - np.maximum(starts, -low)


@dataclass(frozen=True)
class AvgPoolGradient(_Pooling):
    """The gradient of `avg_pool` for cotangents `[N, H_out, W_out, C]`. The attributes are the same as in `AvgPool`."""

    windows: Windows
    counted: Sides
    image: Pair
    linear: ClassVar = ((0,),)

    def outputs(self, g: Any) -> list[Any]:
        return [g.update(shape=(g.shape[0], *self.image, g.shape[3]), weak_type=False)]

    def form(self, g: jax.Array) -> list[jax.Array]:
        zeros, g = varying_alike(jnp.zeros((g.shape[0], *self.image, g.shape[3]), g.dtype), g)
        return [*jax.vjp(AvgPool(self.windows, self.counted, self.image).form, zeros)[1]([g])]

    def native(self, g: Any) -> Form | None:
        (images,) = self.outputs(g)
        return self._call(native.AVG_POOL_GRADIENT, images, images, self.counted)

    def adjoint(self, group: Any, cts: Any, operands: Any) -> list[jax.Array]:
        return [*call(AvgPool(self.windows, self.counted, self.image), *cts)]


def _at_windows(x: Any, windows: Windows) -> Any:
    return x.update(shape=(x.shape[0], *windows.outputs(x.shape), x.shape[3]), weak_type=False)


def _reduced(windows: Windows, x: jax.Array, initial: float, function: Any) -> jax.Array:
    """Return a reduction of each window. `initial` must be a NumPy array: otherwise bfloat16 has no derivative."""
    return jax.lax.reduce_window(
        x,
        np.array(initial, x.dtype),
        function,
        window_dimensions=(1, *windows.size, 1),
        window_strides=(1, *windows.strides, 1),
        padding=((0, 0), *windows.padding, (0, 0)),
    )


def _largest(windows: Windows, x: jax.Array) -> jax.Array:
    return _reduced(windows, x, _lowest(x.dtype), jax.lax.max)


def _largest_on_cpu(windows: Windows, x: jax.Array) -> jax.Array:
    if max(windows.size) > WIDEST_SLICED:
        return _largest(windows, x)
    lowest = np.array(_lowest(x.dtype), x.dtype)
    x = jax.lax.pad(x, lowest, ((0, 0, 0), *((*side, 0) for side in windows.padding), (0, 0, 0)))
    return _max_of_slices(x, windows.size, windows.strides)


def _taken(largest: Callable[..., jax.Array], windows: Windows, x: jax.Array, u: jax.Array) -> jax.Array:
    """Return the derivative of the largest values of x, in the direction u."""
    return jax.jvp(functools.partial(largest, windows), (x,), (u,))[1]


def _added(largest: Callable[..., jax.Array], windows: Windows, x: jax.Array, g: jax.Array) -> jax.Array:
    """Return the gradient of the largest values of x, for cotangents g."""
    x, g = varying_alike(x, g)  # otherwise the gradient would be summed over devices
    return jax.vjp(functools.partial(largest, windows), x)[1](g)[0]


def _lowest(dtype: Any) -> float:
    """Return the value of padding in max pooling: minus infinity, or the smallest integer or boolean."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf
    return 0 if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _max_of_slices(x: jax.Array, window: Pair, strides: Pair) -> jax.Array:
    """Return the largest value of each window of padded images, computed along one axis after the other.

    Along each axis, the result is the maximum of strided slices, one for each position in the window. Columns come
    before rows, so that the first of equal values is the first in row-major order. Without the barrier, XLA would
    compute the columns again for each row.
    """

    def along(axis: int, x: jax.Array) -> jax.Array:
        last = x.shape[axis] - window[axis - 1] + 1
        slices = (jax.lax.slice_in_dim(x, tap, last + tap, strides[axis - 1], axis) for tap in range(window[axis - 1]))
        return functools.reduce(_later_if_larger, slices)

    return along(1, jax.lax.optimization_barrier(along(2, x)))


def _later_if_larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.select((b > a) | (b != b), b, a)
