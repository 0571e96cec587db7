"""Application of the blocks of a model: loops over stages, rematerialization, and a compile-time barrier.

With the field `scan_blocks`, one loop in the program computes equal blocks of a stage (`jaxcnn.layers.loops`).

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
"""Stages to recompute in the backward pass: True (all), False (none), stage numbers, or a budget such as "8GB"."""

Recomputed = bool | tuple[int, ...] | frozenset[str]
"""Blocks to recompute in the backward pass: True (all), False (none), numbers of stages, or names of blocks."""

VARYING = ("drop_path_rate",)
"""Names of the fields whose values may differ between the blocks of one loop."""


def apply_block(
    block: nn.Module, x: Any, train: bool, stage: int, remat: Recomputed, *, materialize: bool = True
) -> Any:
    """Return `block(x, train)`; in training, the block is rematerialized if `remat` includes it.

    `stage` is the number of the block's stage. If `materialize` is true, the input of the block is computed once.
    Otherwise, XLA on a CPU fuses the end of one block into each operation of the next block that reads this input.
    Compile time then grows with the number of blocks in sequence.
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
    """Apply all blocks of a `ResNet` or `PreActResNet`.

    Each stage except the first halves the height and width of the feature maps, and doubles the number of channels.

    If the model's field `scan_blocks` is true, one loop computes consecutive blocks of a stage that have equal fields
    and variables of equal shapes. The loop includes all blocks of a stage except the first, and also the first block if
    it does not change the shape. With the loop, the program is smaller and XLA for TPUs compiles it faster, but a
    training step moves more bytes through memory (`docs/compile.md`). The loop does not change results, gradients, or
    names, shapes and initial values of variables. The loop does change the random numbers of dropout and stochastic
    depth. `init`, `jaxcnn.models.features`, `jaxcnn.analysis`, `freeze`, and training with frozen parameters need
    single blocks, and therefore use no loop.

    Args:
      model: the `ResNet` or `PreActResNet`.
      block: constructor of a block. All arguments are bound, except those that depend on the position of the block in
        the network.
      x: output of the stem.
      train: whether the model is in training mode.
      remat: blocks to recompute, as in `apply_block`.
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
    """Return whether a block with the drop path rate `rate` has stochastic depth.

    In a loop over blocks with different rates, the rate is an array.
    """
    return isinstance(rate, jax.Array) or rate > 0


def drop_path(rate: float, y: jax.Array, train: bool) -> jax.Array:
    """Apply stochastic depth to `y`, the output of a branch, if `rate` is not 0."""
    return StochasticDepth(rate)(y, train) if drops_paths(rate) else y


def recompute_method(block: type[nn.Module], method: str) -> type[nn.Module]:
    """Return a version of the class `block` that recomputes the method named `method` in the backward pass.

    The method must have the arguments `(x, train)`.
    """
    return nn.remat(block, methods=[method], static_argnums=(2,))
