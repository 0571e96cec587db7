"""The fully connected layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxcnn import kernels
from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import initializers
from jaxcnn.layers._dtypes import unrounded
from jaxcnn.layers._window import is_positive


class Dense(nn.Module):
    """Fully connected layer: `y_j = sum_i W_ij x_i + b_j`, or `y = W^T x + b`, over the last axis.

    `[..., C_in] -> [..., features]`. Parameters: `kernel` `[C_in, features]` and `bias` `[features]`.

    Fields:
      features: number of outputs.
      use_bias: whether to add the bias `b`.
      dtype: dtype of the computation; None uses the common dtype of the input and the parameters.
      param_dtype: dtype of the parameters.
      kernel_init, bias_init: initializers of `kernel` and `bias`.

    Raises:
      UsageError: `features` is not a positive integer, or the size of the input's last axis differs from C_in of the
        existing `kernel`.

    >>> import jax
    >>> y, variables = Dense(10).init_with_output(jax.random.key(0), jnp.ones((2, 84)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((2, 10), (84, 10))
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = initializers.lecun_normal
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "*batch c"]) -> Float[Array, "*batch features"]:
        if not is_positive(self.features):
            raise UsageError(f"Dense needs a whole number of features, at least 1, got features={self.features!r}")
        if self.has_variable("params", "kernel"):
            inputs = self.get_variable("params", "kernel").shape[0]
            if inputs != x.shape[-1]:
                raise UsageError(
                    f"{self.name or 'Dense'} has weights for {inputs} inputs, got {x.shape[-1]}. If the inputs are "
                    "flattened feature maps, use images of the size that the weights were trained on."
                )
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        given, given_bias = kernel, bias
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if bias is not None and given_bias is not None:
            bias = unrounded(given_bias, bias)
        if x.dtype == jnp.bfloat16:
            return kernels.add_bias(kernels.dense(x, unrounded(given, kernel)), bias)
        return kernels.add_bias(x @ kernel, bias)
