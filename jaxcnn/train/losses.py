"""Losses: what training makes small."""

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each example, `-log softmax(logits)[label]`, in nats.

    `[N, classes]` logits and int `[N]` labels give `[N]` losses.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
