"""Pooling: a feature map made smaller, without parameters and without mixing channels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.kernels._platform import traced_for_cpu
from jaxcnn.layers._window import Padding, Sides, Size, check_fits, explicit_padding, image_size, pair

WIDEST_SLICED = 8
"""Maxima over windows up to so wide are taken of strided slices on a CPU, where XLA's own gradient of a window, a
scattering, is 4 to 25 times slower. Each tap of a window is an operation of the program: wide ones stay XLA's."""


def _ceil_overhang(size: int, window: int, stride: int, sides: tuple[int, int]) -> int:
    """Rows past the padded input that `ceil_mode` adds, by torch's rule: no window may start in them."""
    padded = size + sum(sides)
    outputs = -(-(padded - window) // stride) + 1
    if (outputs - 1) * stride >= size + sides[0]:
        outputs -= 1
    return max((outputs - 1) * stride + window - padded, 0)


def _geometry(
    layer: str, x: jax.Array, window_shape: Size, strides: Size | None, padding: Padding, ceil_mode: bool
) -> tuple[tuple[int, int], tuple[int, int], Sides, Sides]:
    """Window, strides, the padding asked for, and that padding with what `ceil_mode` adds below and right."""
    window = pair(window_shape, "window_shape")
    steps = window if strides is None else pair(strides, "strides")
    size = image_size(layer, x.shape)
    sides = explicit_padding(padding, size, window, steps)
    check_fits(layer, x.shape, window, sides)
    if any(side >= k for k, pads in zip(window, sides, strict=True) for side in pads):
        raise UsageError(f"{layer} padding {sides} must be smaller than its window {window}")
    if not ceil_mode:
        return window, steps, sides, sides
    (top, bottom), (left, right) = sides
    extra = [_ceil_overhang(n, k, s, p) for n, k, s, p in zip(size, window, steps, sides, strict=True)]
    return window, steps, sides, ((top, bottom + extra[0]), (left, right + extra[1]))


def _later_if_larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """`b` where it is larger than `a` or not a number, else `a`: of equals, the first is kept."""
    return jax.lax.select((b > a) | (b != b), b, a)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _max_of_slices(x: jax.Array, window: tuple[int, int], strides: tuple[int, int]) -> jax.Array:
    """The largest of each window of a padded image: along each axis, that of as many strided slices as it has taps.

    Columns come before rows, so that the first of equals is the first row by row. Without the barrier XLA computes the
    columns again for each row.
    """

    def along(axis: int, x: jax.Array) -> jax.Array:
        last = x.shape[axis] - window[axis - 1] + 1
        slices = (jax.lax.slice_in_dim(x, tap, last + tap, strides[axis - 1], axis) for tap in range(window[axis - 1]))
        return functools.reduce(_later_if_larger, slices)

    return along(1, jax.lax.optimization_barrier(along(2, x)))


class MaxPool(nn.Module):
    """The largest value in each window: `Y[y, x] = max_{u, v} X[s y + u, s x + v]`, channel by channel.

    `[N, H, W, C] -> [N, H_out, W_out, C]` with `H_out = floor((H + 2 p - k) / s) + 1`; `ceil` instead of `floor`
    with `ceil_mode`, less one where the last window would lie wholly in the padding (torch's rule). Padding never
    wins: it counts as minus infinity, and what is not a number wins always. `strides` are the window's size if not
    given. The gradient goes to the largest value of a window; of several that are equal, to the first one, row by row.

    Raises:
      UsageError: sizes that are not positive, padding as large as the window, an image too small.

    >>> MaxPool(2)(jnp.ones((1, 28, 28, 6))).shape
    (1, 14, 14, 6)
    >>> MaxPool(3, strides=2, ceil_mode=True)(jnp.ones((1, 112, 112, 64))).shape
    (1, 56, 56, 64)
    """

    window_shape: Size
    strides: Size | None = None
    padding: Padding = 0
    ceil_mode: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides, _, sides = _geometry(
            "MaxPool", x, self.window_shape, self.strides, self.padding, self.ceil_mode
        )
        lowest = np.array(-jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min, x.dtype)
        if max(window) <= WIDEST_SLICED and traced_for_cpu():
            x = jax.lax.pad(x, lowest, ((0, 0, 0), *((*side, 0) for side in sides), (0, 0, 0)))
            return _max_of_slices(x, window, strides)
        return jax.lax.reduce_window(
            x,
            lowest,
            jax.lax.max,
            window_dimensions=(1, *window, 1),
            window_strides=(1, *strides, 1),
            padding=((0, 0), *sides, (0, 0)),
        )


class AvgPool(nn.Module):
    """The mean of each window: `Y[y, x] = mean_{u, v} X[s y + u, s x + v]`, channel by channel.

    Shapes as in `MaxPool`. `count_include_pad` says whether zeros of the padding count among the values averaged
    (torch's default, and what the papers' frameworks did); rows that only `ceil_mode` adds never count. Sums are
    taken in float32 or wider; the mean has the input's dtype, and for integers it is float32.

    Raises:
      UsageError: sizes that are not positive, padding as large as the window, an image too small.

    >>> AvgPool(2)(jnp.ones((1, 28, 28, 6))).shape
    (1, 14, 14, 6)
    """

    window_shape: Size
    strides: Size | None = None
    padding: Padding = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides, asked, sides = _geometry(
            "AvgPool", x, self.window_shape, self.strides, self.padding, self.ceil_mode
        )
        # At least float32: in bfloat16 256 + 1 is 256, and uint8 ends at 255.
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        total = jax.lax.reduce_window(
            values,
            np.array(0, values.dtype),
            jax.lax.add,
            window_dimensions=(1, *window, 1),
            window_strides=(1, *strides, 1),
            padding=((0, 0), *sides, (0, 0)),
        )
        # How many values each window averages depends on shapes alone, so it is a constant of the program.
        rows, columns = (
            self._values_counted(x.shape[axis + 1], window[axis], strides[axis], asked[axis], total.shape[axis + 1])
            for axis in (0, 1)
        )
        counts = np.outer(rows, columns)
        counts = counts[:1, :1] if (counts == counts[0, 0]).all() else counts
        mean = total / counts[None, :, :, None].astype(values.dtype)
        return mean.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else mean

    def _values_counted(self, size: int, window: int, stride: int, sides: tuple[int, int], outputs: int) -> np.ndarray:
        """Along one axis, the number of values that each of `outputs` windows averages."""
        before, after = sides
        first, last = (0, before + size + after) if self.count_include_pad else (before, before + size)
        starts = np.arange(outputs) * stride
        return np.minimum(starts + window, last) - np.maximum(starts, first)


class GlobalAvgPool(nn.Module):
    """The mean of each whole feature map: `[N, H, W, C] -> [N, C]` (Lin et al., *Network In Network*, 2013).

    >>> GlobalAvgPool()(jnp.ones((2, 7, 7, 512))).shape
    (2, 512)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != 4:
            raise UsageError(f"GlobalAvgPool needs feature maps [N, H, W, C], got shape {list(x.shape)}")
        return x.mean(axis=(1, 2))


class AdaptiveAvgPool(nn.Module):
    """The mean over each of `output_size` x `output_size` regions that cover the image: `[N, H, W, C] -> [N, n, n, C]`.

    Region i of n runs from row `floor(i H / n)` to row `ceil((i + 1) H / n)`, so that neighbours overlap where n does
    not divide H (torch's rule).

    Raises:
      UsageError: an output size that is not positive.

    >>> AdaptiveAvgPool(4)(jnp.ones((2, 14, 14, 512))).shape
    (2, 4, 4, 512)
    """

    output_size: Size

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = pair(self.output_size, "output_size")
        height, width = image_size("AdaptiveAvgPool", x.shape)
        strips = [x[:, i * height // rows : -(-(i + 1) * height // rows)].mean(1) for i in range(rows)]
        y = jnp.stack(strips, 1)
        strips = [y[:, :, i * width // columns : -(-(i + 1) * width // columns)].mean(2) for i in range(columns)]
        return jnp.stack(strips, 2)
