"""A 1x1 convolution for inference whose input is first normalized and rectified, as in DenseNet.

On a CPU, this convolution is one call of the native library. The library concatenates and normalizes the feature maps
for a few pixels at a time, without writing the intermediate results to memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import Form, Kernel, call, merged
from jaxcnn.kernels.convolution import LEAST_WORK, Geometry
from jaxcnn.kernels.fused import Content, FusedConvolution, content_of
from jaxcnn.kernels.reductions import row


def activated_conv(
    relu: bool, kernel: np.ndarray, factor: np.ndarray, offset: np.ndarray, bias: np.ndarray, maps: Sequence[jax.Array]
) -> jax.Array:
    """Return `relu(kernel * relu(x factor + offset) + bias)` `[N, H, W, C_out]`, where x is `maps` concatenated.

    Args:
      relu: whether to apply the outer ReLU.
      kernel: constant `[1, 1, C, C_out]` in the dtype of the feature maps. The library packs `kernel` once; a digest of
        the bytes of `kernel` identifies the packed copy.
      factor: constant `[C]` in float32 or the dtype of the feature maps, whichever is wider.
      offset: constant `[C]` in the dtype of `factor`.
      bias: constant `[C_out]` in the dtype of `factor`.
      maps: feature maps `[N, H, W, C_i]`, whose concatenation along the channels is x, `[N, H, W, C]`.
    """
    operands: Any = (kernel, factor, offset, bias, *maps)
    return call(ActivatedConvolution(relu, content_of(kernel)), *operands)[0]


@dataclass(frozen=True)
class ActivatedConvolution(Kernel):
    """The kernel of `activated_conv`. Its operands are kernel, factor, offset, bias, and the feature maps.

    The operand `kernel` must be the same array in every execution of a program, as in `FusedConvolution`.

    Attributes:
      relu: whether to apply the outer ReLU.
      content: digest of the operand `kernel`.
    """

    relu: bool
    content: Content

    def outputs(self, kernel: Any, factor: Any, offset: Any, bias: Any, *maps: Any) -> list[Any]:
        return [maps[0].update(shape=(*maps[0].shape[:3], kernel.shape[3]), weak_type=False)]

    def form(self, kernel: Any, factor: Any, offset: Any, bias: Any, *maps: Any) -> list[jax.Array]:
        x = jnp.concatenate(maps, axis=3)
        x = jax.nn.relu(x.astype(factor.dtype) * row(factor, x) + row(offset, x)).astype(x.dtype)
        geometry = Geometry(x.shape, kernel.shape, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
        return list(call(FusedConvolution(geometry, "relu" if self.relu else None, self.content), x, kernel, bias))

    def native(self, kernel: Any, factor: Any, offset: Any, bias: Any, *maps: Any) -> Form | None:
        vectors = (factor, offset, bias)
        is_known = maps[0].dtype in ("float32", "bfloat16") and kernel.dtype == maps[0].dtype
        is_known = is_known and all(x.dtype == "float32" for x in vectors)
        pixels, features = math.prod(maps[0].shape[:3]), kernel.shape[3]
        if not is_known or pixels * kernel.size < max(LEAST_WORK, 1):
            return None
        flags = int(self.relu), int(maps[0].dtype == jnp.bfloat16)
        key = (pixels, features, *flags, *(x.shape[3] for x in maps))
        if not native.is_activated_fast(key):
            return None
        outputs = self.outputs(kernel, *vectors, *maps)
        return native.function(native.ACTIVATED_CONVOLUTION, outputs, key=key, content=self.content)

    def batched(self, operands: Any, dims: Any) -> tuple[Sequence[jax.Array], Sequence[int]]:
        if any(dim is not None for dim in dims[:4]):
            # Under `vmap`, each index of the mapped axis has its own kernel, so that no kernel can be packed.
            return jax.vmap(self.form, in_axes=tuple(dims))(*operands), [0]
        maps, places = merged(operands[4:], dims[4:])
        y = call(self, *operands[:4], *maps)[0]
        return [y.reshape(places, -1, *y.shape[1:])], [0]
