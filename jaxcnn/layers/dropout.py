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
    needs a random key named `dropout`: `model.apply(variables, x, train=True, rngs={"dropout": key})`. The output has
    the shape of the input.

    Raises:
      UsageError: `rate` is not in [0, 1).

    >>> Dropout(0.3)(jnp.ones(3), train=False).tolist()
    [1.0, 1.0, 1.0]
    """

    rate: float

    def __call__(self, x: Shaped[InputArray, "*shape"], train: bool) -> Shaped[InputArray, "*shape"]:
        return _drop(self, x, x.shape, self.rate, train)


class StochasticDepth(nn.Module):
    """Set a residual branch to 0 with probability `rate` in training; return the branch unchanged in evaluation.

    Source: Huang, Sun, Liu, Sedra and Weinberger, *Deep Networks with Stochastic Depth*, 2016, section 3. Apply this
    layer to the output of the branch: `x + StochasticDepth(rate)(branch(x), train)`. As in `Dropout`, branches that are
    kept are divided by `1 - rate` in training, and the random key is named `dropout`. The paper multiplies branches by
    `1 - rate` at test time instead. `linear_decay` returns the paper's rate for each block. The output has the shape of
    the input, `[N, ...]`.

    Fields:
      rate: probability of dropping the branch.
      mode: "row" draws a random number for each example, as EfficientNet and ConvNeXt do. "batch" draws one number for
        all examples, as in the paper. Under `pmap` and `shard_map`, each device draws one number for all its examples.

    Raises:
      UsageError: `rate` is not in [0, 1), or `mode` is unknown.

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
    """In training, multiply `x` by a random mask of shape `mask_shape` with the values 0 and `1 / (1 - rate)`."""
    # In a loop over blocks, the rate is an array whose value is unknown here; `init` has checked the rate.
    is_known = not isinstance(rate, jax.Array)
    if is_known and not 0.0 <= rate < 1.0:
        raise UsageError(f"{type(layer).__name__} needs a rate in [0, 1), the probability of dropping; got {rate}")
    if not train or (is_known and rate == 0.0):
        return x
    kept = 1.0 - rate
    keep = jax.random.bernoulli(layer.make_rng("dropout"), kept, mask_shape)
    return jnp.where(keep, x / (kept if is_known else kept.astype(x.dtype)), jnp.zeros_like(x))


def linear_decay(rate: float, block: int, blocks: int) -> float:
    """Return the rate of stochastic depth in block number `block` (from 1) of `blocks`: `rate * block / blocks`.

    Source: Huang et al., 2016, equation 4. Early blocks are dropped less often, because all later blocks depend on
    them. `rate` is the probability of dropping the last block.

    >>> [linear_decay(0.5, block, 4) for block in (1, 2, 3, 4)]
    [0.125, 0.25, 0.375, 0.5]
    """
    return rate * block / blocks
