"""The convolutional layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxcnn import kernels
from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import initializers
from jaxcnn.layers._dtypes import unrounded
from jaxcnn.layers._window import Padding, Size, check_fits, explicit_padding, image_size, is_positive, pair


class Conv(nn.Module):
    """Two-dimensional convolution, `Y_j = sum_i W_ij * X_i + b_j`, from C_in input channels to C_out output channels.

    `W_ij * X_i` is a cross-correlation (the kernel is not flipped),
    `Y[n, y, x, j] = b[j] + sum_{i, u, v} W[u, v, i, j] X[n, s y + d u - p, s x + d v - p, i]` with stride `s`, dilation
    `d` and `p` rows of zero padding. `[N, H, W, C_in] -> [N, H_out, W_out, features]` with
    `H_out = floor((H + 2 p - d (k - 1) - 1) / s) + 1`. Here, k is the number of rows of the kernel. At stride 1 and
    dilation 1, a kernel of odd size k with padding `(k - 1) / 2` keeps the height and width. Parameters: `kernel`
    `[kH, kW, C_in / groups, features]` and `bias` `[features]`.

    Fields:
      features: C_out, the number of output channels.
      kernel_size: size of the kernel: (height, width), or one number for height and width.
      strides: distance in pixels between neighboring positions of the kernel: (vertical, horizontal), or one number for
        the two directions.
      padding: rows and columns of zeros on each side: a number, `((top, bottom), (left, right))`, "SAME" or "VALID"
        (no padding). At stride 2, "SAME" pads asymmetrically, unlike the padding in papers.
      kernel_dilation: distance in pixels between neighboring elements of the kernel; 1 for an ordinary kernel.
      feature_group_count: number of groups. Output channels of a group depend on the input channels of this group only.
      use_bias: whether to add the bias `b`. A normalization after the convolution makes the bias redundant.
      dtype: dtype of the computation; None uses the common dtype of the input and the parameters.
      param_dtype: dtype of the parameters.
      kernel_init, bias_init: initializers of `kernel` and `bias`.

    Raises:
      UsageError: `features` or a size is not positive, the padded image is smaller than the kernel, or
        `feature_group_count` does not divide the input channels and the output channels.

    >>> import jax
    >>> y, variables = Conv(6, (5, 5), padding=2).init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 28, 28, 6), (5, 5, 1, 6))
    """

    features: int
    kernel_size: Size
    strides: Size = 1
    padding: Padding = 0
    kernel_dilation: Size = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = initializers.lecun_normal
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        kernel_size = pair(self.kernel_size, "kernel_size")
        strides = pair(self.strides, "strides")
        dilation = pair(self.kernel_dilation, "kernel_dilation")
        groups = self.feature_group_count
        size = image_size("Conv", x.shape)
        padding = explicit_padding(self.padding, size, kernel_size, strides, dilation)
        check_fits("Conv", size, kernel_size, padding, dilation)
        if not is_positive(self.features):
            raise UsageError(f"Conv needs a whole number of features, at least 1, got features={self.features!r}")
        if not is_positive(groups) or x.shape[-1] % groups or self.features % groups:
            raise UsageError(
                f"feature_group_count must be a positive integer that divides the input's {x.shape[-1]} channels and "
                f"the output's {self.features}, got {groups!r}"
            )

        shape = (*kernel_size, x.shape[-1] // groups, self.features)
        # Flax traces the initial value of an existing parameter to check its shape; zeros are traced faster.
        kernel_init = initializers.zeros if self.has_variable("params", "kernel") else self.kernel_init
        kernel = self.param("kernel", kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        given, given_bias = kernel, bias
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        kernel = unrounded(given, kernel)
        if bias is not None and given_bias is not None:
            bias = unrounded(given_bias, bias)
        return kernels.conv(x, kernel, strides, padding, dilation, groups, bias)
