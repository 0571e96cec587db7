"""Metrics as sums and counts, which add up over devices and batches. Means are taken last."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]


def sums(losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Sums:
    """Return sums over examples of the loss and of correct predictions, and the number of examples.

    Args:
      losses: `[N]`, one for each example.
      logits: `[N, classes]`; the prediction is the largest one.
      labels: `[N]`.
      mask: `[N]`, False for padding, which does not count; all examples count if not given.

    Returns:
      Scalars `loss`, `correct` and `examples`.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    correct = jnp.argmax(logits, axis=-1) == labels
    return {
        # The loss of padding may be infinite, and 0 * inf is not 0.
        "loss": jnp.where(mask, losses, 0.0).sum(),
        "correct": jnp.where(mask, correct, False).sum(),
        "examples": mask.sum(),
    }


def means(total: Mapping[str, np.ndarray | float]) -> dict[str, float]:
    """Return the mean `loss` and `accuracy` over the `examples` of summed metrics."""
    examples = int(total["examples"])
    return {"loss": float(total["loss"]) / examples, "accuracy": float(total["correct"]) / examples}


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the sum of metrics fetched from several batches, in double precision."""
    return {name: float(sum(np.float64(part[name]) for part in parts)) for name in parts[0]}
