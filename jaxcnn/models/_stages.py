"""Rematerialization of blocks, and the compile-time barrier between them.

Rematerialization keeps only the input of a block and recomputes the block in the backward pass (Chen, Xu, Zhang,
Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016). Parameter names, outputs and gradients do not change.
"""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax

from jaxcnn import kernels
from jaxcnn.errors import UsageError

Remat = bool | tuple[int, ...]
"""The stages to recompute in the backward pass: all, none, or those with these numbers."""


def check_stages(remat: Remat, stages: Collection[int]) -> None:
    """Raise `UsageError` if `remat` names a stage that is not in `stages`."""
    named = () if isinstance(remat, bool) else remat if isinstance(remat, tuple | list) else (remat,)
    if any(isinstance(stage, bool) or stage not in stages for stage in named):
        known = ", ".join(map(str, stages))
        raise UsageError(f"remat must be True, False or a tuple of stages out of {known}, got {remat!r}")


def apply_block(
    block: nn.Module, x: Any, train: bool, *, stage: int, remat: Remat, materialize: bool = True
) -> jax.Array | Any:
    """Return `block(x, train)`, rematerialized in training if `remat` includes the number `stage`.

    With `materialize`, the input is computed once, and not again in each operation that reads it: XLA on a CPU fuses
    the end of one block into every reader in the next, and compile time grows along a chain of blocks.
    """

    def call(block: Any, x: Any) -> Any:
        return block(kernels.materialize(x) if materialize else x, train)

    is_recomputed = remat if isinstance(remat, bool) else stage in remat
    return nn.remat(call)(block, x) if is_recomputed and train else call(block, x)


def recompute_method(block: type[nn.Module], method: str) -> type[nn.Module]:
    """Return a class like `block` whose `method(x, train)` is recomputed in the backward pass."""
    return nn.remat(block, methods=[method], static_argnums=(2,))
