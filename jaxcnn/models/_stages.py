"""The loop over stages of residual blocks, rematerialization of blocks, and the compile-time barrier between them.

With `scan_blocks`, equal blocks of a stage are one loop in the program (`jaxcnn.layers.loops`).

Rematerialization keeps only the input of a block and recomputes the block in the backward pass (Chen, Xu, Zhang,
Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016). Parameter names, outputs and gradients do not change.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import kernels
from jaxcnn.layers import StochasticDepth, linear_decay
from jaxcnn.layers.loops import apply_in_loop, can_loop, runs
from jaxcnn.layers.recomputation import record

Remat = bool | tuple[int, ...] | str
"""Stages to recompute in the backward pass: all, none, or those with these numbers; or a budget such as "8GB"."""

Recomputed = bool | tuple[int, ...] | frozenset[str]
"""Blocks to recompute: all, none, those of the stages with these numbers, or those with these names."""

VARYING = ("drop_path_rate",)
"""Fields in which the blocks of a stage may differ."""


def apply_block(
    block: nn.Module, x: Any, train: bool, stage: int, remat: Recomputed, *, materialize: bool = True
) -> Any:
    """Return `block(x, train)`, rematerialized in training if `remat` includes it. `stage` is the number of its stage.

    With `materialize`, the input is computed once, and not again in each operation that reads it: XLA on a CPU fuses
    the end of one block into every reader in the next, and compile time grows along a chain of blocks.
    """

    def call(block: Any, x: Any) -> Any:
        return block(kernels.materialize(x) if materialize else x, train)

    x = record(block, x)
    return nn.remat(call)(block, x) if train and is_recomputed(block, stage, remat) else call(block, x)


def is_recomputed(block: nn.Module, stage: int, remat: Recomputed) -> bool:
    """Return whether `remat` includes a block of the stage with this number."""
    if isinstance(remat, bool):
        return remat
    return block.name in remat if isinstance(remat, frozenset) else stage in remat


def apply_residual_stages(
    model: Any, block: Callable[..., nn.Module], x: jax.Array, train: bool, remat: Recomputed
) -> jax.Array:
    """Apply all blocks of a `ResNet` or `PreActResNet`. Each stage but the first halves the size and doubles the width.

    With the model's `scan_blocks`, one loop computes consecutive blocks of a stage that have equal fields and
    variables of equal shapes: all but the first, and this one too where it changes no shape. The program is then
    smaller, and XLA for TPUs compiles it faster, but the step moves more bytes (`docs/compile.md`). Names, shapes and
    initial values of variables do not change, nor do results and gradients. The random numbers of dropout and
    stochastic depth do. `init`, `jaxcnn.models.features`, `jaxcnn.analysis` and `freeze` need single blocks and do
    without the loop, as does training with frozen parameters.

    Args:
      model: the model.
      block: the model's field of that name with all arguments but those that depend on the position in the network.
      x: output of the stem.
      train: as for each block.
      remat: as for `apply_block`.
    """
    depth = 0
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        layers = []
        for index in range(1, blocks + 1):
            depth += 1
            layers.append(
                block(
                    features=model.width * 2 ** (stage - 1),
                    strides=2 if stage > 1 and index == 1 else 1,
                    drop_path_rate=linear_decay(model.drop_path_rate, depth, sum(model.stage_sizes)),
                    name=f"stage{stage}_block{index}",
                )
            )
        ways = [is_recomputed(layer, stage, remat) for layer in layers]
        loops = model.scan_blocks and can_loop(model)
        for run in runs(layers, VARYING, ways) if loops else [[layer] for layer in layers]:
            if len(run) > 1:
                recompute = train and is_recomputed(run[0], stage, remat)
                x = apply_in_loop(run, x, train, varying=VARYING, recompute=recompute)
            else:
                x = apply_block(run[0], x, train, stage, remat)
    return x


def drops_paths(rate: float | jax.Array) -> bool:
    """Return whether a block has stochastic depth. In a loop over blocks of different rates, the rate is an array."""
    return isinstance(rate, jax.Array) or rate > 0


def drop_path(rate: float, y: jax.Array, train: bool) -> jax.Array:
    """Apply stochastic depth to the output of a branch, if its rate is not 0."""
    return StochasticDepth(rate)(y, train) if drops_paths(rate) else y


def recompute_method(block: type[nn.Module], method: str) -> type[nn.Module]:
    """Return a class like `block` whose `method(x, train)` is recomputed in the backward pass."""
    return nn.remat(block, methods=[method], static_argnums=(2,))
