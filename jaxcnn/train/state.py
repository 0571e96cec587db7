"""What changes while training: arrays, and nothing else."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """All that a run needs to go on: saved, sharded and compared as it is.

    Attributes:
      step: int32 scalar, updates made so far.
      params: the model's parameters.
      batch_stats: running statistics of batch normalisation; empty for models without.
      opt_state: the optimizer's own state.
      key: raw key data, uint32 `[2]`, the same for the whole run; each step folds its number in.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array


def create_state(
    model: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...], seed: int
) -> TrainState:
    """The state before the first step. `image_shape` is `(H, W, C)`; parameters depend on `seed` alone."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    keys = {"params": init_key, "dropout": init_key}

    @jax.jit  # one compiled program in place of one for every layer's initialiser
    def initialize() -> TrainState:
        # In training mode, in which parts may exist that evaluation does not have (auxiliary classifiers).
        variables = model.init(keys, jnp.zeros((1, *image_shape)), train=True)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
            key=jax.random.key_data(run_key),
        )

    return initialize()
