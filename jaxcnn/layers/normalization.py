"""Normalisation: batch normalisation and local response normalisation."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.kernels._platform import traced_for_cpu
from jaxcnn.kernels.axes import is_bound, is_shared
from jaxcnn.kernels.batch_norm import LEAST_CHANNELS, batch_normalized
from jaxcnn.kernels.reductions import channel_sums, spread
from jaxcnn.layers import initializers
from jaxcnn.layers._window import is_positive

BATCH_AXIS = "batch"
"""Name of the mapped axis over which the training step spreads a batch."""


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, *Batch Normalization*, 2015, algorithm 1), channel by channel.

    While training, over a mini-batch of m values of a channel (every example and position),

        `mu = sum_i x_i / m`,  `sigma^2 = sum_i (x_i - mu)^2 / m`,
        `x^_i = (x_i - mu) / sqrt(sigma^2 + epsilon)`,  `y_i = gamma x^_i + beta`

    and running statistics follow the batch's: `running = momentum * running + (1 - momentum) * batch`. At test
    time these take the place of `mu` and `sigma^2`, so that an example's output does not depend on its batch.

    `[..., C] -> [..., C]`. Parameters: `scale` (gamma) and `bias` (beta), `[C]`. Variables in the collection
    `batch_stats`: `mean` and `var`, `[C]`, always float32, as are the statistics' computation.

    Where the batch is spread over devices, statistics are those of the whole batch: under `pmap` or `shard_map`
    with an axis named `axis_name` they are averaged over it, and anywhere else (one device, or `jit` over a mesh)
    the program sees the whole batch anyway.

    Fields:
      momentum: share of the old running statistics that stays (torch's `1 - momentum`).
      epsilon: added to the variance.
      use_scale, use_bias: whether there is a gamma, a beta.
      unbiased: whether the running variance is the sample's, with `m - 1` below (as the paper's algorithm 2 and
        torch have it) or the batch's own, with m (as Flax and TensorFlow have it).
      axis_name: the mapped axis to synchronise over; None keeps each device to its own part of the batch.
      axis_index_groups: groups of device indices to synchronise within, in place of all devices.

    Raises:
      UsageError: a momentum outside [0, 1] or an epsilon below 0.

    >>> import jax
    >>> x = 5 + 3 * jax.random.normal(jax.random.key(0), (64, 8, 8, 16))
    >>> variables = BatchNorm().init(jax.random.key(1), x, train=False)
    >>> y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
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
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scale_init: nn.initializers.Initializer = initializers.ones
    bias_init: nn.initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not 0.0 <= self.momentum <= 1.0 or not self.epsilon >= 0.0:
            raise UsageError(
                f"BatchNorm needs a momentum in [0, 1] and an epsilon >= 0, got {self.momentum} and {self.epsilon}"
            )
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, channels, self.param_dtype) if self.use_bias else None

        statistics = running_mean.value, running_var.value
        if not train:
            y = _normalized(x, *statistics, scale, bias, self.epsilon)
        else:
            y, mean, var = _trained(
                x,
                *statistics,
                scale,
                bias,
                momentum=self.momentum,
                epsilon=self.epsilon,
                unbiased=self.unbiased,
                # An axis that is not there is none, and is not asked for again where a gradient is taken.
                axis_name=self.axis_name if self.axis_name is not None and is_bound(self.axis_name) else None,
                groups=self.axis_index_groups,
            )
            if not self.is_initializing():
                running_mean.value, running_var.value = mean, var
        return y.astype(x.dtype if self.dtype is None else self.dtype)


# A deep network has hundreds of them, of a few shapes: each is traced, and its gradient taken, once.
@functools.partial(jax.jit, static_argnames=("momentum", "epsilon", "unbiased", "axis_name", "groups"))
def _trained(
    x: jax.Array,
    running_mean: jax.Array,
    running_var: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    momentum: float,
    epsilon: float,
    unbiased: bool,
    axis_name: str | None,
    groups: tuple[tuple[int, ...], ...] | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The batch normalised in float32, and the running mean and variance `[C]` after it."""
    channels = x.shape[-1]
    is_here = axis_name is None or not is_shared(axis_name, x)
    if traced_for_cpu() and channels >= LEAST_CHANNELS and is_here:
        gamma = jnp.ones(channels) if scale is None else scale
        beta = jnp.zeros(channels) if bias is None else bias
        vectors = (running_mean, running_var, gamma.astype(jnp.float32), beta.astype(jnp.float32))
        return batch_normalized(x, *vectors, momentum=momentum, epsilon=epsilon, unbiased=unbiased)
    mean, var, count = _batch_statistics(x, running_mean, axis_name, groups)
    sample_var = var * (count / max(count - 1, 1)) if unbiased else var
    return (
        _normalized(x, mean, var, scale, bias, epsilon),
        momentum * running_mean + (1 - momentum) * mean,
        momentum * running_var + (1 - momentum) * sample_var,
    )


def _normalized(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array | None, bias: jax.Array | None, epsilon: float
) -> jax.Array:
    """One multiplication and one addition a value, with the factors worked out once a channel."""
    factor = jax.lax.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * scale
    # `centre - mean` is 0. Through it, the gradient of the mean is that of the bias, and not one more sum over the
    # data.
    centre = jax.lax.stop_gradient(mean)
    shift = (centre - mean) * factor
    return spread(x, centre, factor, shift if bias is None else shift + bias)


def _batch_statistics(
    x: jax.Array, around: jax.Array, axis_name: str | None, groups: tuple[tuple[int, ...], ...] | None
) -> tuple[jax.Array, jax.Array, int]:
    """Mean and variance `[C]` in float32 over everything but channels, and over how many values they are."""
    count = int(np.prod(x.shape[:-1]))
    # Var(x) = E[(x - a)^2] - (E[x] - a)^2 for any a: one pass over the data and, over devices, one round of
    # communication. With a near the mean the difference keeps the digits that E[x^2] - E[x]^2 would lose.
    offset, square = (total / count for total in channel_sums(x, x, around, around))
    if axis_name is not None:
        if is_shared(axis_name, offset):
            offset, square = jax.lax.pmean(jnp.stack([offset, square]), axis_name, axis_index_groups=groups)
        count *= len(groups[0]) if groups else jax.lax.axis_size(axis_name)
    return around + offset, jnp.maximum(square - jnp.square(offset), 0.0), count


class LocalResponseNorm(nn.Module):
    """Local response normalisation (Krizhevsky et al., *ImageNet Classification ...*, 2012, section 3.3).

    Each value is damped by the activity of `size` neighbouring channels at the same position:

        `b_i = a_i / (k + alpha * sum_{j = i - size // 2}^{i + size // 2} a_j^2) ^ beta`

    The defaults are the paper's. Caffe and torch divide `alpha` by `size`, and use `k = 1`; to agree with
    `torch.nn.LocalResponseNorm(size, alpha)` give `alpha / size` here. Keeps the shape `[N, H, W, C]`.

    Raises:
      UsageError: a size below 1.

    >>> LocalResponseNorm()(jnp.ones((1, 2, 2, 8))).shape
    (1, 2, 2, 8)
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def __call__(self, x: jax.Array) -> jax.Array:
        if not is_positive(self.size):
            raise UsageError(f"LocalResponseNorm needs a whole number of channels, at least 1, got size={self.size!r}")
        before = self.size // 2
        activity = jax.lax.reduce_window(
            jnp.square(x.astype(jnp.float32)),
            np.float32(0),
            jax.lax.add,
            window_dimensions=(*(1,) * (x.ndim - 1), self.size),
            window_strides=(1,) * x.ndim,
            padding=((0, 0),) * (x.ndim - 1) + ((before, self.size - 1 - before),),
        )
        return (x * (self.k + self.alpha * activity) ** -self.beta).astype(x.dtype)
