"""The dynamic loss scale of float16 training (Micikevicius et al., *Mixed Precision Training*, 2018, section 3.2).

Parameters are always float32. bfloat16 has the range of float32 and needs only the `dtype` of the models. In float16,
small gradients underflow to 0, so the loss is multiplied by a scale before it is differentiated, and the gradients are
divided by it afterwards: `gradient.scaled(loss_scale)`. The optimizer's state stores the scale and adapts it to the
gradients: `dynamic_loss_scale`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcnn.train.optim.adapters import adapt

INITIAL_SCALE, LARGEST_SCALE = 2.0**15, 2.0**24
GROWTH_INTERVAL = 2000


class LossScaleState(NamedTuple):
    """The state of an optimizer with a loss scale.

    Attributes:
      scale: factor on the loss, float32 scalar.
      good_steps: steps with finite gradients since the scale last changed, int32 scalar.
      inner: state of the optimizer itself.
    """

    scale: jax.Array
    good_steps: jax.Array
    inner: Any


def loss_scale(opt_state: LossScaleState) -> jax.Array:
    """Return the factor on the loss, from the state of an optimizer made by `dynamic_loss_scale`."""
    return opt_state.scale


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation, growth_interval: int = GROWTH_INTERVAL
) -> optax.GradientTransformationExtraArgs:
    """Add a loss scale to the optimizer's state, and skip steps whose gradients overflowed.

    Where a gradient is not finite, parameters and optimizer state stay unchanged and the scale is halved. After
    `growth_interval` finite steps in a row the scale is doubled. At a scale of 1, an overflow is not due to the scale:
    the step is made, so that the run is seen to diverge.

    Args:
      optimizer: takes gradients without a scale.
      growth_interval: finite steps after which the scale doubles.
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
