"""Layers that rearrange or scale the channels at each position."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import initializers
from jaxcnn.layers._dtypes import floating_dtype
from jaxcnn.layers._window import is_positive


class ChannelShuffle(nn.Module):
    """Interleave groups of channels, so that the next grouped convolution gets channels of every group.

    Source: Zhang, Zhou, Lin and Sun, *ShuffleNet*, 2018, section 3.1 and figure 1. The channels of each position are
    viewed as a matrix with `groups` rows, and this matrix is transposed. `[..., C] -> [..., C]`: channel j of group i
    moves from index `i C / groups + j` to index `j groups + i`.

    Raises:
      UsageError: `groups` is not a positive integer that divides the number of channels.

    >>> ChannelShuffle(2)(jnp.arange(6).reshape(1, 6)).tolist()
    [[0, 3, 1, 4, 2, 5]]
    """

    groups: int

    def __call__(self, x: Shaped[InputArray, "*positions c"]) -> Shaped[InputArray, "*positions c"]:
        *positions, channels = x.shape
        if not is_positive(self.groups) or channels % self.groups:
            raise UsageError(
                f"ChannelShuffle needs a number of groups that divides the input's {channels} channels, "
                f"got {self.groups!r}"
            )
        return x.reshape(*positions, self.groups, channels // self.groups).swapaxes(-1, -2).reshape(x.shape)


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor that starts close to 0: `y_c = gamma_c x_c`.

    Source: Touvron, Cord, Sablayrolles, Synnaeve and Jegou, *Going deeper with Image Transformers*, 2021, section 2.
    Place `LayerScale` at the end of each residual branch: a deep network then starts close to the identity function.
    `[..., C] -> [..., C]`. Parameter: `gamma` `[C]`.

    Fields:
      initial: initial value of `gamma`; ConvNeXt uses 1e-6.
      dtype: dtype of the result; None uses the dtype of the input, or float32 for integers.
      param_dtype: dtype of `gamma`.

    >>> import jax
    >>> y, variables = LayerScale(0.5).init_with_output(jax.random.key(0), jnp.ones((1, 3)))
    >>> y.tolist(), variables["params"]["gamma"].shape
    ([[0.5, 0.5, 0.5]], (3,))
    """

    initial: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "*positions c"]) -> Float[InputArray, "*positions c"]:
        gamma = self.param("gamma", initializers.constant(self.initial), x.shape[-1:], self.param_dtype)
        dtype = floating_dtype(x) if self.dtype is None else self.dtype
        return x.astype(dtype) * gamma.astype(dtype).reshape(*(1,) * (x.ndim - 1), -1)
