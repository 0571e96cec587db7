"""The loop over stages of residual blocks, rematerialization of blocks, and the compile-time barrier between them.

Rematerialization keeps only the input of a block and recomputes the block in the backward pass (Chen, Xu, Zhang,
Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016). Parameter names, outputs and gradients do not change.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import kernels
from jaxcnn.layers import StochasticDepth, linear_decay

Remat = bool | tuple[int, ...]
"""The stages to recompute in the backward pass: all, none, or those with these numbers."""


def apply_block(block: nn.Module, x: Any, train: bool, stage: int, remat: Remat, *, materialize: bool = True) -> Any:
    """Return `block(x, train)`, rematerialized in training if `remat` includes the number `stage`.

    With `materialize`, the input is computed once, and not again in each operation that reads it: XLA on a CPU fuses
    the end of one block into every reader in the next, and compile time grows along a chain of blocks.
    """

    def call(block: Any, x: Any) -> Any:
        return block(kernels.materialize(x) if materialize else x, train)

    is_recomputed = remat if isinstance(remat, bool) else stage in remat
    return nn.remat(call)(block, x) if is_recomputed and train else call(block, x)


def apply_residual_stages(model: Any, block: Callable[..., nn.Module], x: jax.Array, train: bool) -> jax.Array:
    """Apply all blocks of a `ResNet` or `PreActResNet`. Each stage but the first halves the size and doubles the width.

    `block` is the model's field of that name with all arguments but those that depend on the position in the network.
    """
    depth = 0
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        for index in range(1, blocks + 1):
            depth += 1
            layer = block(
                features=model.width * 2 ** (stage - 1),
                strides=2 if stage > 1 and index == 1 else 1,
                drop_path_rate=linear_decay(model.drop_path_rate, depth, sum(model.stage_sizes)),
                name=f"stage{stage}_block{index}",
            )
            x = apply_block(layer, x, train, stage, model.remat)
    return x


def drop_path(rate: float, y: jax.Array, train: bool) -> jax.Array:
    """Apply stochastic depth to the output of a branch, if its rate is not 0."""
    return StochasticDepth(rate)(y, train) if rate else y


def recompute_method(block: type[nn.Module], method: str) -> type[nn.Module]:
    """Return a class like `block` whose `method(x, train)` is recomputed in the backward pass."""
    return nn.remat(block, methods=[method], static_argnums=(2,))
