"""Losses: what training makes small. `[N, classes]` logits and int `[N]` labels give `[N]` losses."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy of each example, `-log softmax(logits)[label]`, in nats.

    With `label_smoothing` s it is the cross-entropy against a target that has `1 - s` on the label and s spread
    evenly over all classes (Szegedy et al., *Rethinking the Inception Architecture*, 2015, section 7).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return losses
    of_all_classes = -jax.nn.log_softmax(logits).mean(axis=-1)
    return (1.0 - label_smoothing) * losses + label_smoothing * of_all_classes


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each class by itself, "this one or not", averaged over classes, in nats.

    As in Wightman, Touvron and Jegou, *ResNet strikes back*, 2021. The target is smoothed as above.
    """
    target = jax.nn.one_hot(labels, logits.shape[-1])
    target = (1.0 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)


# Each is linear in the target, so that the loss of a mixed label is the mixed loss (see `mixing`).
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def make_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of this name, `(logits [N, classes], labels [N]) -> [N]`.

    Raises:
      UsageError: an unknown name; the nearest one is named.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return partial(LOSSES[name], label_smoothing=label_smoothing) if label_smoothing else LOSSES[name]
