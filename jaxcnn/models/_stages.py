"""Memory for time: parts of a network whose inner values the gradient computes again (Chen, Xu, Zhang, Guestrin:
Training Deep Nets with Sublinear Memory Cost, 2016). Names of parameters, outputs and gradients stay what they are."""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError

Remat = bool | tuple[int, ...]
"""The stages whose blocks are computed again in the backward pass: all, none, or those of these numbers."""


def check_stages(remat: Remat, stages: Collection[int]) -> None:
    """Raises `UsageError` if `remat` names a stage that there is not."""
    named = () if isinstance(remat, bool) else remat if isinstance(remat, tuple | list) else (remat,)
    unknown = [stage for stage in named if isinstance(stage, bool) or stage not in stages]
    if unknown:
        known = ", ".join(map(str, stages))
        raise UsageError(f"remat must be True, False or a tuple of stages out of {known}, got {remat!r}")


def is_recomputed(remat: Remat, stage: int) -> bool:
    """Whether the blocks of this stage are."""
    return remat if isinstance(remat, bool) else stage in remat


def apply_part(part: Callable[..., Any], module: nn.Module, x: Any, *, train: bool, recompute: bool) -> Any:
    """`part(module, x, train=train)`, a part of what `module` computes; with `recompute` in training, of all that it
    computes nothing is kept but `x`."""

    def call(module: Any, x: Any) -> Any:
        return part(module, x, train=train)

    # Without a gradient there is nothing to keep.
    return nn.remat(call)(module, x) if recompute and train else call(module, x)


def apply_block(block: nn.Module, x: Any, *, train: bool, recompute: bool) -> Any:
    """`block(x, train=train)`, with `recompute` likewise."""
    return apply_part(lambda block, x, train: block(x, train=train), block, x, train=train, recompute=recompute)
