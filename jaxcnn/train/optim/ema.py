"""Exponential moving average of a network over its past steps. It often tests better than the network itself."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(decay: float, step: jax.Array) -> jax.Array:
    """Return the decay at `step` (from 0): `min(decay, (1 + step) / (10 + step))`.

    The second term, as in TensorFlow, lets the average forget the random initial parameters in a short run.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update(average: Any, latest: Any, decay: float, step: jax.Array) -> Any:
    """Return `d * average + (1 - d) * latest` with `d = decay_at(decay, step)`, leaf by leaf."""
    d = decay_at(decay, step)
    return jax.tree.map(lambda a, x: d * a + (1.0 - d) * x, average, latest)
