"""Dropout of units and of residual branches."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError


class Dropout(nn.Module):
    """Set each unit to 0 with probability `rate` in training; return the input unchanged in evaluation.

    Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, 2014. The remaining units
    are divided by `1 - rate` in training ("inverted" dropout), so that the expected output equals the input. Training
    needs a random key named `dropout`: `model.apply(variables, x, train=True, rngs={"dropout": key})`.

    Raises:
      UsageError: `rate` is not in [0, 1).

    >>> Dropout(0.3)(jnp.ones(3), train=False).tolist()
    [1.0, 1.0, 1.0]
    """

    rate: float

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _drop(self, x, x.shape, self.rate, train)


class StochasticDepth(nn.Module):
    """Set a residual branch to 0 with probability `rate`, example by example, in training.

    Huang, Sun, Liu, Sedra and Weinberger, *Deep Networks with Stochastic Depth*, 2016. Place it at the end of the
    branch: `x + StochasticDepth(rate)(branch(x), train)`. Scaling and random key are those of `Dropout`; the paper
    multiplies by `1 - rate` at test time instead. `linear_decay` gives the paper's rate for each depth.

    Raises:
      UsageError: `rate` is not in [0, 1).

    >>> StochasticDepth(0.5)(jnp.ones((1, 2)), train=False).tolist()
    [[1.0, 1.0]]
    """

    rate: float

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _drop(self, x, (x.shape[0], *(1,) * (x.ndim - 1)), self.rate, train)


def _drop(layer: nn.Module, x: jax.Array, mask_shape: tuple[int, ...], rate: float, train: bool) -> jax.Array:
    """Multiply `x` by a random mask of 0 and `1 / (1 - rate)`, broadcast from `mask_shape`."""
    if not 0.0 <= rate < 1.0:
        raise UsageError(f"{type(layer).__name__} needs a rate in [0, 1), the probability of dropping; got {rate}")
    if not train or rate == 0.0:
        return x
    keep = jax.random.bernoulli(layer.make_rng("dropout"), 1.0 - rate, mask_shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def linear_decay(rate: float, block: int, blocks: int) -> float:
    """Return the rate of stochastic depth in block number `block` (from 1) of `blocks`: `rate * block / blocks`.

    Huang et al., 2016, equation 4: early blocks, on which all later ones depend, are dropped less often.

    >>> [linear_decay(0.5, block, 4) for block in (1, 2, 3, 4)]
    [0.125, 0.25, 0.375, 0.5]
    """
    return rate * block / blocks
