"""Loss functions of classification: `(logits [N, classes], labels) -> [N]`, with one loss for each example.

Labels are integers `[N]`, one class for each example, or float targets `[N, classes]` from 0 to 1. If an integer label
is not a class (below 0, or at least `classes`), or if a target is outside of [0, 1], the loss is NaN. Wrong labels are
therefore visible in the first metrics.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.array_types import AnyArray, Array, Float, Num
from jaxcnn.errors import UsageError
from jaxcnn.train.registry import Registry

Loss = Callable[[jax.Array, jax.Array], jax.Array]


# Largest accepted difference between 1 and the sum of an example's targets, which may be rounded to half precision.
_SUM_TOLERANCE = 0.01


def check_labels(labels: Any, shape: tuple[int, ...], classes: int | None = None) -> None:
    """Raise `UsageError` if labels have a wrong shape or dtype. JAX may trace the labels: their values are not used.

    Args:
      labels: integers of the shape `shape`, or floats of the shape `(*shape, classes)`.
      shape: shape of the examples, such as `(N,)`.
      classes: number of classes, or None if it is not known.
    """
    dtype, found = jnp.result_type(labels), jnp.shape(labels)
    if jnp.issubdtype(dtype, jnp.floating):
        fits = found[:-1] == shape and len(found) > len(shape) and classes in (None, found[-1])
    else:
        fits = found == shape and jnp.issubdtype(dtype, jnp.integer)
    if not fits:
        of_floats = f"({', '.join(map(str, (*shape, 'classes' if classes is None else classes)))})"
        raise UsageError(
            f"labels must be integers of shape {shape} or floats of shape {of_floats}, got {dtype} of shape {found}. "
            "Pass the index of one class for each example, or a number from 0 to 1 for each class."
        )


def cross_entropy(
    logits: Float[AnyArray, "*n classes"], labels: Num[AnyArray, "..."], label_smoothing: float | Float[Array, ""] = 0.0
) -> Float[Array, "*n"]:
    """Return the softmax cross-entropy of each example, `-sum(target * log softmax(logits))`, in nats.

    The target of an integer label is a one-hot vector. The float targets of an example must sum to 1. With
    `label_smoothing` = s, the target is multiplied by `1 - s`, and s is distributed evenly over all classes (Szegedy et
    al., *Rethinking the Inception Architecture*, 2015, section 7).

    Args:
      logits: logits of the examples, `[N, classes]`.
      labels: integers `[N]`, or float targets `[N, classes]`, such as mixed labels or the probabilities of a teacher.
      label_smoothing: fraction s of the target to distribute evenly, in [0, 1).

    Raises:
      UsageError: if the labels have a wrong shape or dtype.

    >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0]])
    >>> print(cross_entropy(logits, jnp.array([0, 1])).round(4))
    [0.1269 2.1269]
    """
    check_labels(labels, logits.shape[:-1], logits.shape[-1])
    if _are_targets(labels):
        losses = _soft_cross_entropy(logits, labels)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if isinstance(label_smoothing, jax.Array) or label_smoothing:
        of_all_classes = -jax.nn.log_softmax(logits).mean(axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * of_all_classes
    losses = _nan_unless_valid(losses, logits, labels)
    if _are_targets(labels):
        sums = labels.sum(axis=-1, dtype=jnp.float32)
        losses = jnp.where(jnp.abs(sums - 1) <= _SUM_TOLERANCE, losses, jnp.nan)
    return losses


def _soft_cross_entropy(logits: AnyArray, targets: AnyArray) -> jax.Array:
    targets = jnp.asarray(targets, logits.dtype)
    # A class with a target of 0 adds nothing to the loss, even if its logit is -inf.
    parts = jnp.where(targets == 0, 0.0, targets * jax.nn.log_softmax(logits))
    return -parts.sum(axis=-1)


def binary_cross_entropy(
    logits: Float[AnyArray, "*n classes"], labels: Num[AnyArray, "..."], label_smoothing: float | Float[Array, ""] = 0.0
) -> Float[Array, "*n"]:
    """Return the sigmoid cross-entropy of each example, averaged over classes, in nats.

    Source: Wightman, Touvron and Jegou, *ResNet strikes back*, 2021. The target is smoothed as in `cross_entropy`.

    Args:
      logits: logits of the examples, `[N, classes]`.
      labels: integers `[N]`, or float targets `[N, classes]` from 0 to 1, such as multi-hot labels.
      label_smoothing: fraction of the target to distribute evenly over the classes, in [0, 1).

    Raises:
      UsageError: if the labels have a wrong shape or dtype.

    >>> logits = jnp.array([[2.0, -1.0], [2.0, -1.0]])
    >>> print(binary_cross_entropy(logits, jnp.array([[1.0, 0.0], [1.0, 1.0]])).round(4))
    [0.2201 0.7201]
    """
    check_labels(labels, logits.shape[:-1], logits.shape[-1])
    targets = labels if _are_targets(labels) else jax.nn.one_hot(labels, logits.shape[-1])
    targets = (1.0 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
    losses = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)
    return _nan_unless_valid(losses, logits, labels)


def _are_targets(labels: AnyArray) -> bool:
    """Return whether labels are float targets, with a number for each class, and not class indices."""
    return jnp.issubdtype(jnp.result_type(labels), jnp.floating)


def _nan_unless_valid(losses: jax.Array, logits: AnyArray, labels: AnyArray) -> jax.Array:
    """Replace the loss of an example by NaN if its label is not a class, or if a target is outside of [0, 1]."""
    if _are_targets(labels):
        valid = ((labels >= 0) & (labels <= 1)).all(axis=-1)
    else:
        valid = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(valid, losses, jnp.nan)


def weighted(loss: Loss, weights: Sequence[float]) -> Loss:
    """Return a loss function that multiplies the loss of each example by the weight of its class, `weights[label]`.

    The training step divides the sum of the losses by the number of examples, not by the sum of their weights. An
    example therefore has the same influence in every batch, on every device and in every micro-batch.

    Raises:
      UsageError: when the returned loss function is called, if the labels are not integers `[N]`.
    """

    def weighted_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        losses = loss(logits, labels)
        if _are_targets(labels):
            raise UsageError(
                f"class_weights need integer labels, one class for each example, got {jnp.result_type(labels)} "
                f"of shape {jnp.shape(labels)}. Omit class_weights, or weight the classes in your own loss."
            )
        return jnp.asarray(weights, jnp.float32)[labels] * losses

    return weighted_loss


# Each loss must be linear in the target: `mixing` mixes the losses of two labels in place of the labels.
LOSSES: Registry[Callable[..., jax.Array]] = Registry(
    "loss",
    {
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
    },
)


def make_loss(name: str, label_smoothing: float | jax.Array = 0.0) -> Loss:
    """Return the loss function `(logits [N, classes], labels) -> [N]` that is named `name`, such as "cross_entropy".

    Raises:
      UsageError: if the name is unknown. The error message suggests the closest valid name.
    """
    loss = LOSSES.find(name)
    is_smoothed = isinstance(label_smoothing, jax.Array) or label_smoothing > 0
    return partial(loss, label_smoothing=label_smoothing) if is_smoothed else loss
