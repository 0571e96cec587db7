"""Dropout of single units and of whole residual branches."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import InputArray, Shaped
from jaxcnn.errors import UsageError, unknown_name

Mode = Literal["row", "batch"]


class Dropout(nn.Module):
    """Set each unit to 0 with probability `rate` in training; return the input unchanged in evaluation.

    Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, 2014. The remaining units
    are divided by `1 - rate` in training ("inverted" dropout), so that the expected output equals the input. Training
    needs a random key named `dropout`: `model.apply(variables, x, train=True, rngs={"dropout": key})`. Keeps the shape.

    Raises:
      UsageError: `rate` is not in [0, 1).

    >>> Dropout(0.3)(jnp.ones(3), train=False).tolist()
    [1.0, 1.0, 1.0]
    """

    rate: float

    def __call__(self, x: Shaped[InputArray, "*shape"], train: bool) -> Shaped[InputArray, "*shape"]:
        return _drop(self, x, x.shape, self.rate, train)


class StochasticDepth(nn.Module):
    """Set a residual branch to 0 with probability `rate` in training; return it unchanged in evaluation.

    Huang, Sun, Liu, Sedra and Weinberger, *Deep Networks with Stochastic Depth*, 2016, section 3. Place it at the end
    of the branch: `x + StochasticDepth(rate)(branch(x), train)`. Scaling and random key are those of `Dropout`; the
    paper multiplies by `1 - rate` at test time instead. `linear_decay` gives the paper's rate for each depth. Keeps the
    shape `[N, ...]`.

    Fields:
      rate: probability of dropping the branch.
      mode: "row" decides for each example, as EfficientNet and ConvNeXt do; "batch" decides once for all examples,
        as in the paper. Under `pmap` and `shard_map` these are the examples on one device.

    Raises:
      UsageError: `rate` is not in [0, 1), or an unknown mode.

    >>> StochasticDepth(0.5)(jnp.ones((1, 2)), train=False).tolist()
    [[1.0, 1.0]]
    """

    rate: float
    mode: Mode = "row"

    def __call__(self, x: Shaped[InputArray, "*shape"], train: bool) -> Shaped[InputArray, "*shape"]:
        if self.mode not in get_args(Mode):
            raise unknown_name("mode of StochasticDepth", self.mode, get_args(Mode))
        rows = x.shape[0] if self.mode == "row" else 1
        return _drop(self, x, (rows, *(1,) * (x.ndim - 1)), self.rate, train)


def _drop(layer: nn.Module, x: jax.Array, mask_shape: tuple[int, ...], rate: Any, train: bool) -> jax.Array:
    """Multiply `x` by a random mask of 0 and `1 / (1 - rate)`, broadcast from `mask_shape`."""
    is_known = not isinstance(rate, jax.Array)  # an array in a loop over blocks: `init` has checked it
    if is_known and not 0.0 <= rate < 1.0:
        raise UsageError(f"{type(layer).__name__} needs a rate in [0, 1), the probability of dropping; got {rate}")
    if not train or (is_known and rate == 0.0):
        return x
    kept = 1.0 - rate
    keep = jax.random.bernoulli(layer.make_rng("dropout"), kept, mask_shape)
    return jnp.where(keep, x / (kept if is_known else kept.astype(x.dtype)), jnp.zeros_like(x))


def linear_decay(rate: float, block: int, blocks: int) -> float:
    """Return the rate of stochastic depth in block number `block` (from 1) of `blocks`: `rate * block / blocks`.

    Huang et al., 2016, equation 4: early blocks, on which all later ones depend, are dropped less often. `rate` is the
    probability of dropping the last block.

    >>> [linear_decay(0.5, block, 4) for block in (1, 2, 3, 4)]
    [0.125, 0.25, 0.375, 0.5]
    """
    return rate * block / blocks
