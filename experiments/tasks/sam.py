"""Sharpness-aware minimization: a gradient at the worst point nearby.

References:
  Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2020,
  algorithm 1 with p = 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.train import BatchLoss, mean_over_devices, plain


def sam(loss: BatchLoss, params: Any, radius: float = 0.05) -> tuple[Any, Any]:
    """Return the gradient at `params + radius * g / |g|`, where g is the gradient at `params`.

    It is a `Gradient`: pass `gradient=sam`, or `gradient=partial(sam, radius=0.1)`, to `jaxcnn.train.fit`. Metrics and
    batch statistics are those at `params`. Dropout is the same at both points. g is the mean over all devices, so that
    the result does not depend on their number. Of accumulated micro-batches, each has its own g (m-sharpness, section
    4.1 of the paper).
    """
    gradients, aux = plain(loss, params)
    direction = mean_over_devices(gradients)
    norm = optax.tree.norm(direction)
    scale = jnp.where(norm > 0, radius / norm, 0.0)
    nearby = jax.tree.map(lambda p, g: p + (scale * g).astype(p.dtype), params, direction)
    return plain(loss, nearby)[0], aux
