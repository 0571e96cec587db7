"""Dropout of single units."""

from typing import Any

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
        return drop(self, x, x.shape, self.rate, train)


def drop(layer: nn.Module, x: jax.Array, mask_shape: tuple[int, ...], rate: Any, train: bool) -> jax.Array:
    """Multiply `x` by a random mask of 0 and `1 / (1 - rate)`, broadcast from `mask_shape`."""
    is_known = not isinstance(rate, jax.Array)  # an array in a loop over blocks: `init` has checked it
    if is_known and not 0.0 <= rate < 1.0:
        raise UsageError(f"{type(layer).__name__} needs a rate in [0, 1), the probability of dropping; got {rate}")
    if not train or (is_known and rate == 0.0):
        return x
    kept = 1.0 - rate
    keep = jax.random.bernoulli(layer.make_rng("dropout"), kept, mask_shape)
    return jnp.where(keep, x / (kept if is_known else kept.astype(x.dtype)), jnp.zeros_like(x))
