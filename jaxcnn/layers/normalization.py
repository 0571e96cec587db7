"""Batch, layer and local response normalization. The field `norm` of a model can be `BatchNorm` or `LayerNorm`."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import kernels
from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import activation, initializers
from jaxcnn.layers._dtypes import floating_dtype, wide
from jaxcnn.layers._window import is_positive
from jaxcnn.layers.pooling import MaxPool

BATCH_AXIS = "batch"
"""Name of the mapped axis over which the training step shards a batch."""


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy, *Batch Normalization*, 2015, algorithm 1), channel by channel.

    In training, let a channel have m values x_i in the mini-batch, one for each example and position. The layer
    computes

        `mu = sum_i x_i / m`,  `sigma^2 = sum_i (x_i - mu)^2 / m`,
        `x^_i = (x_i - mu) / sqrt(sigma^2 + epsilon)`,  `y_i = gamma x^_i + beta`

    and updates the running statistics: `running = momentum * running + (1 - momentum) * batch`. In evaluation, the
    running statistics replace `mu` and `sigma^2`, so that the output of an example does not depend on its batch.

    `[..., C] -> [..., C]`. Parameters: `scale` (gamma) and `bias` (beta), `[C]`. Variables in the collection
    `batch_stats`: `mean` and `var`, `[C]`, in float32 or `param_dtype`, whichever is wider; variables that were cast to
    another dtype are accepted too. All computations use the widest of three dtypes: float32, the input's dtype, and
    `dtype`.

    If the batch is sharded over devices, the statistics are computed over the whole batch. Under `pmap` and
    `shard_map`, the statistics are averaged over the mapped axis named `axis_name`. In `jit` over a mesh, the program
    sees the whole batch. All devices that synchronize must pass in equal running statistics.

    Fields:
      momentum: factor on the old running statistics in each step; torch's `momentum` is 1 minus this factor.
      epsilon: added to the variance.
      use_scale, use_bias: whether to multiply by gamma, and whether to add beta.
      unbiased: whether the running variance is a sum of squares divided by `m - 1` (as in the paper's algorithm 2 and
        in torch) or by m (as in Flax and TensorFlow), where m is the number of values of a channel.
      axis_name: name of the mapped axis to synchronize over. With `axis_name=None`, each device normalizes by the
        statistics of its own part of the batch.
      axis_index_groups: groups of device indices; the devices of each group synchronize with each other. None
        synchronizes all devices.
      reduce_dtype: dtype in which devices exchange statistics and their gradients, such as "bfloat16".
      dtype: dtype of the output; None uses the dtype of the input, or float32 for integers.
      param_dtype: dtype of the parameters.
      scale_init, bias_init: initializers of `scale` and `bias`.

    Raises:
      UsageError: `momentum` is not in [0, 1], or `epsilon` is below 0.

    >>> x = 5 + 3 * jax.random.normal(jax.random.key(0), (64, 8, 8, 16))
    >>> y, _ = BatchNorm().init_with_output(jax.random.key(1), x, train=True)
    >>> y.shape, bool(abs(y.mean()) < 1e-3), bool(abs(y.std() - 1) < 1e-3)
    ((64, 8, 8, 16), True, True)
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    unbiased: bool = True
    axis_name: str | None = BATCH_AXIS
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    reduce_dtype: Any = "float32"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: nn.initializers.Initializer = initializers.ones
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(
        self,
        x: Shaped[InputArray, "*positions c"],
        train: bool,
        *,
        residual: Shaped[InputArray, "*positions c"] | None = None,
        relu: bool = False,
        windows: kernels.Windows | None = None,
    ) -> Float[Array, "... c"]:
        """Return `BN(x)`; add `residual` if it is given, and then apply a ReLU if `relu` is true.

        With `windows`, return the maximum of `relu(BN(x))` in each window. Models call `norm_relu` and
        `norm_relu_pool` instead, which accept any normalization.
        """
        if not 0.0 <= self.momentum <= 1.0 or not self.epsilon >= 0.0:
            got = f"momentum={self.momentum} and epsilon={self.epsilon}"
            raise UsageError(f"BatchNorm needs a momentum in [0, 1] and an epsilon >= 0, got {got}")
        channels, statistics = x.shape[-1:], jnp.promote_types(self.param_dtype, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, statistics)
        var = self.variable("batch_stats", "var", jnp.ones, channels, statistics)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, channels, self.param_dtype) if self.use_bias else None
        output = self.output_dtype(x)
        x = x if self.dtype is None else x.astype(jnp.promote_types(x.dtype, self.dtype))

        if train:
            if windows is None:
                compute = functools.partial(kernels.batch_norm, residual=residual, relu=relu)
            else:
                compute = functools.partial(kernels.pooled_batch_norm, windows=windows)
            y, new_mean, new_var = compute(
                x,
                mean.value,
                var.value,
                scale,
                bias,
                momentum=self.momentum,
                epsilon=self.epsilon,
                unbiased=self.unbiased,
                axis_name=self.axis_name,
                axis_index_groups=self.axis_index_groups,
                reduce_dtype=self.reduce_dtype,
                dtype=output,
            )
            if not self.is_initializing():
                mean.value, var.value = new_mean, new_var
        else:
            y = kernels.normalize(x, mean.value, var.value, scale, bias, epsilon=self.epsilon).astype(output)
            y = y if residual is None else residual + y
            y = activation.relu(y) if relu else y
            y = y if windows is None else kernels.max_pool(y, *windows)
        return y

    def output_dtype(self, x: Shaped[InputArray, "..."]) -> Any:
        """Return the dtype of the output for an input `x`."""
        return jnp.dtype(floating_dtype(x) if self.dtype is None else self.dtype)


def norm_relu(
    norm: Any,
    x: Shaped[InputArray, "*positions c"],
    train: bool,
    residual: Shaped[InputArray, "*positions c"] | None = None,
) -> Float[Array, "*positions c"]:
    """Return `relu(norm(x, train))`, or `relu(norm(x, train) + residual)`, `[..., C]`.

    `norm` is a module called as `(x, train)`. In training, a `BatchNorm` adds the residual and applies the ReLU itself,
    in one pass over the data, and rounds only the final result. The output that `jaxcnn.models.features` returns for
    this `BatchNorm` then includes the residual and the ReLU. In evaluation, and for other modules, normalization,
    addition and ReLU are separate operations.

    >>> x = jnp.array([[1.0, 2.0, 3.0]])
    >>> norm_relu(LayerNorm().bind({"params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}), x, True, 2 * x).round(2)
    Array([[0.78, 4.  , 7.22]], dtype=float32)
    """
    if train and _is_ours(norm, BatchNorm) and (residual is None or _is_like(residual, x.shape, norm.output_dtype(x))):
        return norm(x, train, residual=residual, relu=True)
    y = norm(x, train)
    return activation.relu(y if residual is None else residual + y)


def norm_relu_pool(norm: Any, pool: Any, x: jax.Array, train: bool) -> jax.Array:
    """Return `pool(norm_relu(norm, x, train))`, `[N, H, W, C] -> [N, H_out, W_out, C]`.

    In training, a `BatchNorm` followed by a `MaxPool` computes the pooled feature maps directly. On a TPU, the feature
    maps before the pooling are then not computed.

    >>> norm, x = BatchNorm(), jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> norm_relu_pool(norm.bind(norm.init(jax.random.key(0), x, False)), MaxPool(4), x, False).shape
    (1, 1, 1, 1)
    """
    if train and _is_ours(norm, BatchNorm) and _is_ours(pool, MaxPool):
        return pool(x, norm=norm)
    return pool(norm_relu(norm, x, train))


def _is_ours(module: Any, kind: type) -> bool:
    """Return whether `module` has the same `__call__` as the class `kind`.

    A subclass, or a class that a Flax transformation returns, may have another `__call__`.
    """
    return type(module).__call__ is kind.__call__


def _is_like(x: jax.Array, shape: tuple[int, ...], dtype: Any) -> bool:
    return x.shape == shape and x.dtype == dtype


class LayerNorm(nn.Module):
    """Layer normalization (Ba, Kiros and Hinton, *Layer Normalization*, 2016) over the channels of each position.

    `y_j = gamma_j (x_j - mu) / sqrt(sigma^2 + epsilon) + beta_j` with mean mu and variance sigma^2 over the C channels.
    The layer computes the same in training and evaluation; `train` is accepted so that `LayerNorm` can replace
    `BatchNorm`. As in ConvNeXt (Liu et al., *A ConvNet for the 2020s*, 2022), mean and variance are not taken over the
    positions of an image.

    `[..., C] -> [..., C]`. Dtypes, parameters and fields have the same meaning as in `BatchNorm`.

    Raises:
      UsageError: `epsilon` is below 0.

    >>> y, _ = LayerNorm().init_with_output(jax.random.key(0), jnp.array([[1.0, 2.0, 3.0]]))
    >>> y.round(3).tolist()
    [[-1.225000023841858, 0.0, 1.225000023841858]]
    """

    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: nn.initializers.Initializer = initializers.ones
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "*positions c"], train: bool = False) -> Float[Array, "*positions c"]:
        if not self.epsilon >= 0.0:
            raise UsageError(f"LayerNorm needs an epsilon >= 0, got {self.epsilon}")
        y, channels = wide(x, self.dtype), x.shape[-1:]
        ones, zeros = jnp.ones(channels, y.dtype), jnp.zeros(channels, y.dtype)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype) if self.use_scale else ones
        bias = self.param("bias", self.bias_init, channels, self.param_dtype) if self.use_bias else zeros
        computed = functools.reduce(jnp.promote_types, (y.dtype, scale.dtype, bias.dtype))
        dtype = floating_dtype(x) if self.dtype is None else jnp.dtype(self.dtype)
        vectors = scale.astype(computed), bias.astype(computed)
        # The kernel widens 16-bit data row by row; other data of a narrower dtype are widened here.
        return kernels.layer_norm(x if x.dtype == dtype else y, *vectors, epsilon=self.epsilon, dtype=dtype)


class LocalResponseNorm(nn.Module):
    """Local response normalization (Krizhevsky et al., *ImageNet Classification ...*, 2012, section 3.3).

    Each value a_i of channel i is divided by a power of the sum of squares over `size` neighboring channels at the same
    position: `b_i = a_i / (k + alpha * sum_{j = i - size // 2}^{i + size // 2} a_j^2) ^ beta`. The default fields are
    the values in the paper. Caffe and torch divide `alpha` by `size` and use `k = 1`. To get the same result as
    `torch.nn.LocalResponseNorm(size, alpha)`, use `LocalResponseNorm(size, alpha / size, k=1.0)`. The output has the
    shape of the input, `[N, H, W, C]`. The sums are computed in float32 or wider.

    Raises:
      UsageError: `size` is not a positive integer.

    >>> LocalResponseNorm()(jnp.ones((1, 2, 2, 8))).shape
    (1, 2, 2, 8)
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def __call__(self, x: Shaped[InputArray, "*positions c"]) -> Float[Array, "*positions c"]:
        if not is_positive(self.size):
            raise UsageError(f"LocalResponseNorm needs a whole number of channels, at least 1, got size={self.size!r}")
        ones, before = (1,) * (x.ndim - 1), self.size // 2
        padding = (*((0, 0) for _ in ones), (before, self.size - 1 - before))
        values = wide(x)
        activity = jax.lax.reduce_window(
            jnp.square(values), np.zeros((), values.dtype), jax.lax.add, (*ones, self.size), (*ones, 1), padding
        )
        return (values * (self.k + self.alpha * activity) ** -self.beta).astype(floating_dtype(x))
