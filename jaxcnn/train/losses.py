"""Losses of classification: `(logits [N, classes], labels int [N]) -> [N]`, one for each example.

The loss of a label that is not a class (below 0, or `classes` and above) is NaN, so that a mistake in the labels shows
in the first metrics.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UsageError
from jaxcnn.train.registry import Registry

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def check_labels(labels: Any, shape: tuple[int, ...]) -> None:
    """Raise `UsageError` unless the labels are integers of this shape. Both are known when a step is traced."""
    dtype = jnp.result_type(labels)
    if jnp.shape(labels) != shape or not jnp.issubdtype(dtype, jnp.integer):
        raise UsageError(
            f"labels must be integers of shape {shape}, got {dtype} of shape {jnp.shape(labels)}. "
            "Pass the index of one class for each example"
        )


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the softmax cross-entropy of each example, `-log softmax(logits)[label]`, in nats.

    With `label_smoothing` s, the target has `1 - s` on the label and s distributed evenly over all classes (Szegedy
    et al., *Rethinking the Inception Architecture*, 2015, section 7).

    Raises:
      UsageError: If the labels are not integers of the logits' shape without the classes.
    """
    check_labels(labels, logits.shape[:-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        of_all_classes = -jax.nn.log_softmax(logits).mean(axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * of_all_classes
    return _nan_unless_class(losses, logits, labels)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Return the sigmoid cross-entropy of each example, averaged over classes, in nats.

    As in Wightman, Touvron and Jegou, *ResNet strikes back*, 2021. The target is smoothed as in `cross_entropy`.

    Raises:
      UsageError: If the labels are not integers of the logits' shape without the classes.
    """
    check_labels(labels, logits.shape[:-1])
    target = jax.nn.one_hot(labels, logits.shape[-1])
    target = (1.0 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    losses = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
    return _nan_unless_class(losses, logits, labels)


def _nan_unless_class(losses: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Replace the loss of each label that is not a class by NaN."""
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), losses, jnp.nan)


def weighted(loss: Loss, weights: Sequence[float]) -> Loss:
    """Multiply the loss of each example by the weight of its label, `weights[label]`.

    The training step takes the mean over the examples of a batch, and does not divide by the sum of their weights. So
    micro-batches and devices add up, and each example counts equally in every batch.
    """
    return lambda logits, labels: jnp.asarray(weights, jnp.float32)[labels] * loss(logits, labels)


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
