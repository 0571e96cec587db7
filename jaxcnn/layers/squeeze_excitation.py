"""Squeeze-and-excitation: attention over channels."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.layers import initializers
from jaxcnn.layers._dtypes import floating
from jaxcnn.layers._window import image_size
from jaxcnn.layers.activation import relu, sigmoid
from jaxcnn.layers.convolution import Conv


class SqueezeExcitation(nn.Module):
    """Scale each channel of an image by a gate computed from the means of all channels.

    Hu, Shen and Sun, *Squeeze-and-Excitation Networks*, 2018, section 3, equations 2 to 4:

        `z_c = mean_{y, x} X[y, x, c]`,  `s = gate(W_2 activation(W_1 z + b_1) + b_2)`,  `Y[y, x, c] = s_c X[y, x, c]`

    `[N, H, W, C] -> [N, H, W, C]`. Each output depends on the whole image. Parameters: the 1x1 convolutions `reduce`
    (C to `squeeze_features` channels) and `expand` (`squeeze_features` to C), each with `kernel` and `bias`.

    Fields:
      squeeze_features: number of channels between the two convolutions. The paper uses C / 16, where C is the number of
        input channels.
      activation, gate: elementwise functions. `activation` follows the first convolution, and `gate` follows the
        second. The paper and RegNet use the defaults, `relu` and `sigmoid`. EfficientNet uses `silu` and `sigmoid`.
        MobileNetV3 uses `relu` and `hard_sigmoid`.
      dtype: dtype of the computation; None uses the common dtype of the input and the parameters.
      param_dtype: dtype of the parameters.
      kernel_init, bias_init: initializers of `kernel` and of `bias` in the two convolutions.

    Raises:
      UsageError: `squeeze_features` is not a positive integer, or the input does not have four axes.

    >>> y, variables = SqueezeExcitation(4).init_with_output(jax.random.key(0), jnp.ones((2, 7, 7, 16)))
    >>> y.shape, variables["params"]["reduce"]["kernel"].shape
    ((2, 7, 7, 16), (1, 1, 16, 4))
    """

    squeeze_features: int
    activation: Callable[[jax.Array], jax.Array] = relu
    gate: Callable[[jax.Array], jax.Array] = sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = initializers.lecun_normal
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Float[Array, "n h w c"]:
        image_size("SqueezeExcitation", x.shape)
        x = floating(x)
        means = self._conv(self.squeeze_features, "reduce")(x.mean(axis=(1, 2), keepdims=True))
        scale = self.gate(self._conv(x.shape[-1], "expand")(self.activation(means)))
        return x * scale.astype(x.dtype)

    def _conv(self, features: int, name: str) -> Conv:
        return Conv(
            features,
            1,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )
