"""Fast implementations of the operations that layers compute.

The functions of this package are ordinary differentiable JAX functions, which give the same result on every platform
and work under every JAX transformation. When a program is lowered for a CPU, each function chooses its fastest
implementation: JAX operations or native code. Native code (oneDNN and `jaxcnn.kernels.native`) needs
`pip install 'jaxcnn[cpu]'`.

The environment variable `JAXCNN_KERNELS=auto|xla|native` and the context manager `use` select the implementation.

>>> import jax.numpy as jnp
>>> images, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
>>> conv(images, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1).shape
(1, 5, 5, 4)
>>> with use("xla"):
...     describe("float32"), in_use()
('XLA', 'xla')
"""

from jaxcnn.kernels._selection import CHOICES, VARIABLE, check, in_use, inlined, on_cpu, selected, use
from jaxcnn.kernels.convolution import conv, describe
from jaxcnn.kernels.layer_norm import layer_norm
from jaxcnn.kernels.normalization import batch_norm, normalize
from jaxcnn.kernels.pooled_norm import pooled_batch_norm
from jaxcnn.kernels.pooling import Windows, avg_pool, max_pool
from jaxcnn.kernels.products import dense
from jaxcnn.kernels.reductions import add_bias, affine, channel_sums, materialize, moments

__all__ = [
    "CHOICES",
    "VARIABLE",
    "Windows",
    "add_bias",
    "affine",
    "avg_pool",
    "batch_norm",
    "channel_sums",
    "check",
    "conv",
    "dense",
    "describe",
    "in_use",
    "inlined",
    "layer_norm",
    "materialize",
    "max_pool",
    "moments",
    "normalize",
    "on_cpu",
    "pooled_batch_norm",
    "selected",
    "use",
]
