"""Dropout, of units and of whole residual branches."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError


class Dropout(nn.Module):
    """Leaves out each unit with probability `rate` while training; does nothing while testing.

    Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, 2014. Units that stay
    are divided by `1 - rate` while training ("inverted" dropout), so that the expected input of the next layer is
    the same in training and at test time. Needs a random key named `dropout` while training:
    `model.apply(variables, x, train=True, rngs={"dropout": key})`.

    Raises:
      UsageError: if `rate` is not in [0, 1).

    >>> Dropout(0.3)(jnp.ones(3), train=False).tolist()
    [1.0, 1.0, 1.0]
    """

    rate: float

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not 0.0 <= self.rate < 1.0:
            raise UsageError(f"Dropout needs a rate in [0, 1), the share of units left out; got {self.rate}")
        if not train or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


class StochasticDepth(nn.Module):
    """Leaves out a residual branch with probability `rate`, example by example, while training.

    Huang, Sun, Liu, Sedra and Weinberger, *Deep Networks with Stochastic Depth*, 2016. It stands at the end of the
    branch, in front of the addition: `x + StochasticDepth(rate)(branch(x), train=train)`. Branches that stay are
    divided by `1 - rate` while training, where the paper multiplies them by it at test time. `linear_decay` gives the
    paper's rate for each depth. Needs a random key named `dropout` while training.

    Raises:
      UsageError: if `rate` is not in [0, 1).

    >>> StochasticDepth(0.5)(jnp.ones((1, 2)), train=False).tolist()
    [[1.0, 1.0]]
    """

    rate: float

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not 0.0 <= self.rate < 1.0:
            raise UsageError(f"StochasticDepth needs a rate in [0, 1), the share of branches left out; got {self.rate}")
        if not train or self.rate == 0.0:
            return x
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def linear_decay(rate: float, block: int, blocks: int) -> float:
    """The rate of stochastic depth in block number `block` (from 1) of `blocks`: `rate * block / blocks`.

    Huang et al., 2016, equation 4: early layers, on which all later ones build, stay more often.

    >>> [linear_decay(0.5, block, 4) for block in (1, 2, 3, 4)]
    [0.125, 0.25, 0.375, 0.5]
    """
    return rate * block / blocks
