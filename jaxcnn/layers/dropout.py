"""Dropout."""

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
