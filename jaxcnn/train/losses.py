"""Losses of classification: `(logits [N, classes], labels int [N]) -> [N]`, one for each example."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxcnn.train.registry import Registry

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the softmax cross-entropy of each example, `-log softmax(logits)[label]`, in nats.

    With `label_smoothing` s, the target has `1 - s` on the label and s distributed evenly over all classes (Szegedy
    et al., *Rethinking the Inception Architecture*, 2015, section 7).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not label_smoothing:
        return losses
    of_all_classes = -jax.nn.log_softmax(logits).mean(axis=-1)
    return (1.0 - label_smoothing) * losses + label_smoothing * of_all_classes


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the sigmoid cross-entropy of each example, averaged over classes, in nats.

    As in Wightman, Touvron and Jegou, *ResNet strikes back*, 2021. The target is smoothed as in `cross_entropy`.
    """
    target = jax.nn.one_hot(labels, logits.shape[-1])
    target = (1.0 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)


# Each loss is linear in the target, so that the loss of a mixed label is the mixed loss (see `mixing`).
LOSSES: Registry[Callable[..., jax.Array]] = Registry(
    "loss",
    {
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
    },
)


def make_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """Return the named loss, `(logits [N, classes], labels [N]) -> [N]`.

    Raises:
      UsageError: If the name is unknown. The message suggests the closest one.
    """
    loss = LOSSES.find(name)
    return partial(loss, label_smoothing=label_smoothing) if label_smoothing else loss
