"""Initializers of parameters, named as in papers.

An initializer is a function `(key, shape, dtype) -> array`. Initializers with equal settings are equal and have equal
hashes, also after `pickle`. Pass an initializer as a field of a layer, as in
`Conv(64, 3, kernel_init=initializers.he_normal)`.

The initializers below choose the variance of a weight `w` from two numbers: the inputs (`fan_in`) and the outputs
(`fan_out`) of a unit. Activations and gradients then have a similar magnitude in every layer.

- Xavier (Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010,
  equation 16): `Var(w) = 2 / (fan_in + fan_out)`, for activations that are linear around 0 (tanh, sigmoid).
- He (He et al., *Delving Deep into Rectifiers*, 2015, equation 10): `Var(w) = 2 / fan_in`, for ReLU, which sets half
  of its inputs to 0.
- LeCun (LeCun et al., *Efficient BackProp*, 1998, equation 16): `Var(w) = 1 / fan_in`.

A uniform distribution on `(-a, a)` has variance `a^2 / 3`. Normal distributions are truncated at two standard
deviations, and rescaled to the variance in this list.

>>> kernel = he_normal(jax.random.key(0), (3, 3, 64, 64), jnp.float32)
>>> kernel.shape, bool(abs(kernel.var() * 9 * 64 - 2) < 0.1)
((3, 3, 64, 64), True)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_initializers
from jax.nn.initializers import ones, zeros

from jaxcnn.array_types import Array, Float, KeyArray
from jaxcnn.layers.partial import Partial

Initializer = Callable[..., jax.Array]


def _draw(make: Callable[..., Initializer], settings: tuple, key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
    """Return `make(*settings)(key, shape, dtype)`.

    A `Partial` of this function can be compared and pickled. The closure that `make` returns cannot be compared or
    pickled.
    """
    return make(*settings)(key, shape, dtype)


xavier_uniform = Partial(_draw, jax_initializers.glorot_uniform, ())
"""Uniform distribution of variance `2 / (fan_in + fan_out)`; torch's `xavier_uniform_`."""
xavier_normal = Partial(_draw, jax_initializers.glorot_normal, ())
"""Truncated normal distribution of variance `2 / (fan_in + fan_out)`."""
he_uniform = Partial(_draw, jax_initializers.he_uniform, ())
"""Uniform distribution of variance `2 / fan_in`; torch's `kaiming_uniform_` with `nonlinearity="relu"`."""
he_normal = Partial(_draw, jax_initializers.he_normal, ())
"""Truncated normal distribution of variance `2 / fan_in`."""
lecun_normal = Partial(_draw, jax_initializers.lecun_normal, ())
"""Truncated normal distribution of variance `1 / fan_in`: the default of `Conv` and `Dense`."""


def torch_uniform(key: KeyArray, shape: Sequence[int], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Draw an array of `shape` from the uniform distribution on `(-a, a)` with `a = 1 / sqrt(fan_in)`.

    PyTorch initializes its layers in this way by default.

    >>> bool(abs(torch_uniform(jax.random.key(0), (3, 3, 4, 8))).max() <= 1 / 6)
    True
    """
    return jax_initializers.variance_scaling(1 / 3, "fan_in", "uniform")(key, shape, dtype)


def dirac(key: KeyArray, shape: Sequence[int], dtype: Any = jnp.float32) -> Float[Array, "kh kw c_in c_out"]:
    """Return a kernel `[kH, kW, C_in, C_out]` for which output channel i is a copy of input channel i.

    If C_out is larger than C_in, the remaining output channels are initialized by `torch_uniform`.

    Source: Zagoruyko and Komodakis, *DiracNets*, 2017, section 3.1. The paper adds a trained kernel to the identity;
    this function returns the identity alone. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, section
    3.2, uses the identity alone, too.

    >>> dirac(jax.random.key(0), (3, 3, 2, 4))[1, 1, :, :2].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    height, width, inputs, outputs = shape
    passing = min(inputs, outputs)
    identity = jnp.zeros((height, width, inputs, passing), dtype)
    identity = identity.at[height // 2, width // 2].set(jnp.eye(inputs, passing, dtype=dtype))
    return jnp.concatenate([identity, torch_uniform(key, shape, dtype)[..., passing:]], axis=-1)


def constant(value: float) -> Initializer:
    """Return an initializer that fills arrays with `value`.

    >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
    [0.5, 0.5]
    """
    return Partial(_draw, jax_initializers.constant, (value,))


def normal(stddev: float = 0.01) -> Initializer:
    """Return an initializer that draws from a normal distribution of mean 0 and standard deviation `stddev`.

    >>> normal(0.01)(jax.random.key(0), (3, 3, 16, 32)).shape
    (3, 3, 16, 32)
    """
    return Partial(_draw, jax_initializers.normal, (stddev,))


def truncated_normal(stddev: float = 0.02) -> Initializer:
    """Return an initializer that draws from a normal distribution truncated at two standard deviations.

    `stddev` is the standard deviation of the drawn values, after truncation. In TensorFlow and JAX, `stddev` is the
    standard deviation before truncation, and truncation makes the standard deviation 12% smaller. ConvNeXt and vision
    transformers were trained with `torch.nn.init.trunc_normal_(std=0.02)`. The function `trunc_normal_` truncates at -2
    and 2, so that its values also have a standard deviation of 0.02.

    >>> values = truncated_normal(0.02)(jax.random.key(0), (100, 100))
    >>> bool(abs(values.std() - 0.02) < 1e-3), bool(abs(values).max() < 0.05)
    (True, True)
    """
    truncated_std = 0.87962566103423978  # standard deviation of a standard normal distribution truncated at -2 and 2
    return Partial(_draw, jax_initializers.truncated_normal, (stddev / truncated_std,))


__all__ = [
    "constant",
    "dirac",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "normal",
    "ones",
    "torch_uniform",
    "truncated_normal",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
