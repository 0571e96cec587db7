"""Dropout of whole residual branches."""

from typing import Literal, get_args

import flax.linen as nn
import jax

from jaxcnn.errors import unknown_name
from jaxcnn.layers.dropout import drop

Mode = Literal["row", "batch"]


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

    >>> StochasticDepth(0.5)(jax.numpy.ones((1, 2)), train=False).tolist()
    [[1.0, 1.0]]
    """

    rate: float
    mode: Mode = "row"

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.mode not in get_args(Mode):
            raise unknown_name("mode of StochasticDepth", self.mode, get_args(Mode))
        rows = x.shape[0] if self.mode == "row" else 1
        return drop(self, x, (rows, *(1,) * (x.ndim - 1)), self.rate, train)


def linear_decay(rate: float, block: int, blocks: int) -> float:
    """Return the rate of stochastic depth in block number `block` (from 1) of `blocks`: `rate * block / blocks`.

    Huang et al., 2016, equation 4: early blocks, on which all later ones depend, are dropped less often.

    >>> [linear_decay(0.5, block, 4) for block in (1, 2, 3, 4)]
    [0.125, 0.25, 0.375, 0.5]
    """
    return rate * block / blocks
