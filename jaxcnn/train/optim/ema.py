"""Exponential moving average of a network's parameters over the steps, which is often more accurate in evaluations."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(decay: float, step: jax.Array) -> jax.Array:
    """Return the decay at step `step`, counted from 0: `min(decay, (1 + step) / (10 + step))`.

    The second term, which is from TensorFlow, reduces the weight of the random initial parameters in a short run.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update(average: Any, latest: Any, decay: float, step: jax.Array) -> Any:
    """Return the updated moving average, `d * average + (1 - d) * latest` with `d = decay_at(decay, step)`."""
    d = decay_at(decay, step)
    return jax.tree.map(lambda a, x: d * a + (1.0 - d) * x, average, latest)
