"""Metrics as sums and counts, which add up over devices and batches; means are taken last."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]


def sums(losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> Sums:
    """Sums over examples of the loss and of correct answers, and the number of examples.

    Args:
      losses: `[N]`, one for each example.
      logits: `[N, classes]`; the answer is the largest one.
      labels: `[N]`.
      mask: `[N]`, False where an example does not count; all count if not given.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    correct = jnp.argmax(logits, axis=-1) == labels
    return {
        # A filler's loss may be infinite, and 0 * inf is not 0.
        "loss": jnp.where(mask, losses, 0.0).sum(),
        "correct": jnp.where(mask, correct, False).sum(),
        "examples": mask.sum(),
    }


def means(total: Mapping[str, np.ndarray | float]) -> dict[str, float]:
    """Mean `loss` and `accuracy` over the `examples` of summed-up metrics."""
    examples = int(total["examples"])
    return {"loss": float(total["loss"]) / examples, "accuracy": float(total["correct"]) / examples}


def add(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The sum of metrics fetched from several batches, in double precision."""
    return {name: float(sum(np.float64(part[name]) for part in parts)) for name in parts[0]}
