"""Computation in half precision: parameters stay float32, and float16 gets a dynamic loss scale.

bfloat16 has float32's range and needs no more than the models' `dtype`. Gradients of float16 fall below its
smallest number, so the loss is multiplied by a scale that the optimizer divides out again (Micikevicius et al.,
*Mixed Precision Training*, 2018, section 3.2).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

INITIAL_SCALE, LARGEST_SCALE = 2.0**15, 2.0**24
GROWTH_INTERVAL = 2000


class LossScaleState(NamedTuple):
    """The state of an optimizer under a loss scale.

    Attributes:
      scale: what the loss is multiplied by, float32 scalar.
      good_steps: int32 scalar, steps with finite gradients since the scale last changed.
      inner: the state of the optimizer itself.
    """

    scale: jax.Array
    good_steps: jax.Array
    inner: Any


def loss_scale(opt_state: Any) -> jax.Array | float:
    """What to multiply the loss by: the scale in the optimizer's state, or 1 if it has none."""
    return opt_state.scale if isinstance(opt_state, LossScaleState) else 1.0


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation, growth_interval: int = GROWTH_INTERVAL
) -> optax.GradientTransformation:
    """The optimizer for gradients of a loss that was multiplied by `loss_scale(opt_state)`.

    Where a gradient is not finite, parameters and optimizer stay as they are and the scale is halved; after
    `growth_interval` good steps in a row it is doubled. At a scale of 1 the loss itself is to blame: the step is
    made, so that the run is seen to diverge.
    """

    def init(params: Any) -> LossScaleState:
        return LossScaleState(jnp.float32(INITIAL_SCALE), jnp.int32(0), optimizer.init(params))

    def update(gradients: Any, state: LossScaleState, params: Any = None) -> tuple[Any, LossScaleState]:
        gradients = jax.tree.map(lambda g: g / state.scale, gradients)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradients)]))
        make = finite | (state.scale <= 1.0)
        updates, inner = optimizer.update(gradients, state.inner, params)
        updates = jax.tree.map(lambda u: jnp.where(make, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(make, new, old), inner, state.inner)
        good_steps = jnp.where(finite, state.good_steps + 1, 0)
        grow = good_steps >= growth_interval
        scale = jnp.where(finite, jnp.where(grow, 2.0 * state.scale, state.scale), state.scale / 2.0)
        return updates, LossScaleState(jnp.clip(scale, 1.0, LARGEST_SCALE), jnp.where(grow, 0, good_steps), inner)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]
