"""Pooling: shrink feature maps, without parameters and without mixing channels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn import kernels
from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers._dtypes import floating
from jaxcnn.layers._window import Padding, Pair, Sides, Size, check_fits, explicit_padding, image_size, pair


def _ceil_overhang(size: int, window: int, stride: int, sides: Pair) -> int:
    """Return the number of rows that `ceil_mode` adds below the padded input.

    As in PyTorch, no window may start below the last row of the image, in the padding.
    """
    padded = size + sum(sides)
    outputs = -(-(padded - window) // stride) + 1
    if (outputs - 1) * stride >= size + sides[0]:
        outputs -= 1
    return max((outputs - 1) * stride + window - padded, 0)


def _geometry(layer: "MaxPool | AvgPool", x: jax.Array) -> tuple[Pair, Pair, Sides, Sides]:
    """Return the window, the strides, the padding without `ceil_mode`, and the padding with `ceil_mode`."""
    name = type(layer).__name__
    window = pair(layer.window_shape, "window_shape")
    strides = window if layer.strides is None else pair(layer.strides, "strides")
    size = image_size(name, x.shape)
    sides = explicit_padding(layer.padding, size, window, strides)
    (top, bottom), (left, right) = sides
    # In `ceil_mode` the first window may reach beyond the image, but by less than a stride.
    down, across = (s - 1 if layer.ceil_mode else 0 for s in strides)
    check_fits(name, size, window, ((top, bottom + down), (left, right + across)))
    if any(side >= k for k, pads in zip(window, sides, strict=True) for side in pads):
        raise UsageError(f"{name} padding {sides} must be smaller than its window {window}")
    below, beside = map(_ceil_overhang, size, window, strides, sides) if layer.ceil_mode else (0, 0)
    return window, strides, sides, ((top, bottom + below), (left, right + beside))


class MaxPool(nn.Module):
    """Max pooling, `Y[y, x] = max_{u, v} X[s y + u, s x + v]`, channel by channel.

    `[N, H, W, C] -> [N, H_out, W_out, C]` with `H_out = floor((H + 2 p - k) / s) + 1` for windows of k rows, stride s
    and p rows of padding on each side. Padding counts as minus infinity. The maximum of a window that contains a NaN is
    NaN. The gradient goes to the largest value of a window. If several values are equally large, the gradient goes to
    the first of these values in row-major order. The output has the dtype of the input, also for integers and booleans.

    Fields:
      window_shape: size of a window: (height, width), or one number for height and width.
      strides: distance in pixels between neighboring windows: (vertical, horizontal), or one number for the two
        directions. None uses the size of the window.
      padding: rows and columns of padding on each side, in the same form as in `Conv`.
      ceil_mode: whether the formula for `H_out` uses `ceil` instead of `floor`. As in torch, there is no output for a
        last window that contains only padding.

    Raises:
      UsageError: a size is not positive, the padding is as large as the window, or the image is too small.

    >>> MaxPool(2)(jnp.ones((1, 28, 28, 6))).shape
    (1, 14, 14, 6)
    """

    window_shape: Size
    strides: Size | None = None
    padding: Padding = 0
    ceil_mode: bool = False

    def __call__(self, x: Shaped[InputArray, "n h w c"], *, norm: Any = None) -> Shaped[Array, "n h2 w2 c"]:
        """Return the maximum of each window of `x`, or of `norm_relu(norm, x, True)` if `norm` is given.

        `norm` is a `BatchNorm`. Only `norm_relu_pool` passes this argument, in training.
        """
        window, strides, _, sides = _geometry(self, x)
        if norm is not None:
            return norm(x, True, relu=True, windows=kernels.Windows(window, strides, sides))
        return kernels.max_pool(x, window, strides, sides)


class AvgPool(nn.Module):
    """Average pooling, `Y[y, x] = mean_{u, v} X[s y + u, s x + v]`, channel by channel.

    `[N, H, W, C] -> [N, H_out, W_out, C]`, with `H_out` as in `MaxPool`. In the formula, s is the stride. Sums are
    computed in float32 or wider. The mean has the dtype of the input, or float32 for integers. `MaxPool` describes the
    other fields.

    Fields:
      count_include_pad: whether the mean includes the zeros of the padding. By default, torch and the frameworks of the
        papers include these zeros. The mean never includes the rows and columns that `ceil_mode` adds.

    Raises:
      UsageError: a size is not positive, the padding is as large as the window, or the image is too small.

    >>> AvgPool(2)(jnp.ones((1, 28, 28, 6))).shape
    (1, 14, 14, 6)
    """

    window_shape: Size
    strides: Size | None = None
    padding: Padding = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        window, strides, asked, sides = _geometry(self, x)
        counted = asked if self.count_include_pad else ((0, 0), (0, 0))
        return kernels.avg_pool(floating(x), window, strides, sides, counted)


class GlobalAvgPool(nn.Module):
    """Mean of each feature map, `[N, H, W, C] -> [N, C]` (Lin et al., *Network In Network*, 2013).

    Raises:
      UsageError: the input does not have four axes.

    >>> GlobalAvgPool()(jnp.ones((2, 7, 7, 512))).shape
    (2, 512)
    """

    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[InputArray, "n c"]:
        if x.ndim != 4:
            raise UsageError(f"GlobalAvgPool needs feature maps [N, H, W, C], got shape {list(x.shape)}")
        return x.mean(axis=(1, 2))


class AdaptiveAvgPool(nn.Module):
    """Mean over each of `output_size` x `output_size` regions that cover the image, `[N, H, W, C] -> [N, n, n, C]`.

    Here, n is `output_size`. Region i, counted from 0, starts at row `floor(i H / n)` and ends before row
    `ceil((i + 1) H / n)`. Neighboring regions overlap if n does not divide H, as in torch. An image smaller than the
    output is enlarged by repeating rows and columns. An image that already has the size of the output is returned
    unchanged.

    Raises:
      UsageError: `output_size` is not positive.

    >>> AdaptiveAvgPool(4)(jnp.ones((2, 14, 14, 512))).shape
    (2, 4, 4, 512)
    """

    output_size: Size

    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[InputArray, "n rows columns c"]:
        rows, columns = pair(self.output_size, "output_size")
        height, width = image_size("AdaptiveAvgPool", x.shape)
        if (height, width) == (rows, columns):
            return floating(x)
        y = jnp.stack([x[:, i * height // rows : -(-(i + 1) * height // rows)].mean(1) for i in range(rows)], 1)
        strips = [y[:, :, i * width // columns : -(-(i + 1) * width // columns)].mean(2) for i in range(columns)]
        return jnp.stack(strips, 2)
