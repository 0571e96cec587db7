"""What changes while training: arrays, and nothing else."""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax
from flax import struct

from jaxcnn import kernels


@struct.dataclass
class TrainState:
    """All that a run needs to go on: saved, sharded and compared as it is.

    Attributes:
      step: int32 scalar, updates made so far.
      params: the model's parameters.
      batch_stats: running statistics of batch normalisation; empty for models without.
      opt_state: the optimizer's own state, and the loss scale where there is one.
      ema: `params` and `batch_stats` averaged over past steps, in a dict of these names; empty if not averaged.
      key: raw key data, uint32 `[2]`, the same for the whole run; each step folds its number in.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: jax.Array


def create_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    *,
    averaged: bool = False,
) -> TrainState:
    """The state before the first step. Parameters depend on `seed` alone.

    Args:
      model: a Linen module.
      optimizer: any optax transformation.
      image_shape: `(H, W, C)`.
      seed: start of all randomness.
      averaged: whether the state keeps an average of parameters and statistics (`ema`).
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    keys = {"params": init_key, "dropout": init_key}

    # One compiled program in place of one for every layer's initialiser, and, since it runs once, quickly made rather
    # than fast. Within another program (`eval_shape`) options are that one's.
    is_within = isinstance(init_key, jax.core.Tracer)
    quick = {"xla_backend_optimization_level": 0} if kernels.on_cpu() and not is_within else None

    @functools.partial(jax.jit, compiler_options=quick)
    def initialize() -> TrainState:
        # In training mode, in which parts may exist that evaluation does not have (auxiliary classifiers).
        variables = model.init(keys, jnp.zeros((1, *image_shape)), train=True)
        learned = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **learned,
            opt_state=optimizer.init(variables["params"]),
            ema=learned if averaged else {},
            key=jax.random.key_data(run_key),
        )

    return initialize()


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """The variables to test and predict with: the averaged ones if the run keeps an average, else the latest."""
    return state.ema or {"params": state.params, "batch_stats": state.batch_stats}
