"""The dynamic loss scale of float16 training (Micikevicius et al., *Mixed Precision Training*, 2018, section 3.2).

Parameters are always float32. bfloat16 has the range of float32, and needs no loss scale. In float16, small gradients
underflow to 0. Therefore, `gradient.scaled(loss_scale)` multiplies the loss by a scale before the gradient is computed,
and divides the gradients by the scale. `dynamic_loss_scale` stores the scale in the optimizer's state, and adapts it to
the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.train.optim.adapters import adapt

INITIAL_SCALE, LARGEST_SCALE = 2.0**15, 2.0**24
GROWTH_INTERVAL = 2000


class LossScaleState(NamedTuple):
    """State of an optimizer with a loss scale.

    Attributes:
      scale: factor on the loss, float32 scalar.
      good_steps: number of steps with finite gradients since the last change of the scale, int32 scalar.
      inner: state of the optimizer without the loss scale.
    """

    scale: jax.Array
    good_steps: jax.Array
    inner: Any


def loss_scale(opt_state: LossScaleState) -> jax.Array:
    """Return the loss scale that the state of a `dynamic_loss_scale` optimizer stores."""
    return opt_state.scale


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation, growth_interval: int = GROWTH_INTERVAL
) -> optax.GradientTransformationExtraArgs:
    """Add a loss scale to an optimizer's state, and skip steps whose gradients have overflowed.

    If a gradient is not finite, the parameters and the optimizer's state do not change, and the scale is halved. After
    `growth_interval` steps in a row with finite gradients, the scale is doubled. If a gradient is not finite at a scale
    of 1, the step is not skipped, so that the run is reported as diverged.

    Args:
      optimizer: the optimizer, which gets gradients that are already divided by the scale.
      growth_interval: number of steps in a row with finite gradients after which the scale is doubled.
    """
    optimizer = adapt(optimizer)

    def init(params: Any) -> LossScaleState:
        return LossScaleState(jnp.float32(INITIAL_SCALE), jnp.int32(0), optimizer.init(params))

    def update(gradients: Any, state: LossScaleState, params: Any = None, **extra: Any) -> tuple[Any, LossScaleState]:
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradients)]))
        accept = finite | (state.scale <= 1.0)
        updates, inner = optimizer.update(gradients, state.inner, params, **extra)
        updates = jax.tree.map(lambda u: jnp.where(accept, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(accept, new, old), inner, state.inner)
        good_steps = jnp.where(finite, state.good_steps + 1, 0)
        grow = good_steps >= growth_interval
        scale = jnp.where(finite, jnp.where(grow, 2.0 * state.scale, state.scale), state.scale / 2.0)
        return updates, LossScaleState(jnp.clip(scale, 1.0, LARGEST_SCALE), jnp.where(grow, 0, good_steps), inner)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
