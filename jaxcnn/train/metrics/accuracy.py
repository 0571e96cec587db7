"""Accuracies: of the first class, of the first k, and of all labels of an example."""

import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics.labels import classes_of, is_true
from jaxcnn.train.metrics.metric import Metric


def accuracy(num_classes: int) -> Metric:
    """Return the fraction of examples whose largest logit is that of their label."""
    return Metric(lambda logits, labels: jnp.argmax(logits, axis=-1) == classes_of(labels))


def multi_label_accuracy(num_classes: int) -> Metric:
    """Return the fraction of labels that are predicted, over all examples and classes.

    A class is predicted where the sigmoid of its logit is above 0.5.
    """
    return Metric(lambda logits, labels: ((logits > 0) == is_true(labels, logits)).mean(axis=-1, dtype=jnp.float32))


def top(k: int, num_classes: int) -> Metric:
    """Return the fraction of examples whose label is among the `k` largest logits.

    Of equal logits, the first ones count as larger, as in `argmax`.

    Raises:
      UsageError: if `k` is not from 1 to the number of classes less 1.
    """
    if not 1 <= k < num_classes:
        raise UsageError(
            f"metric top{k} needs more than {k} classes: {num_classes}. Choose a number from 1 to {num_classes - 1}"
            if k
            else "metric top0 counts no class: 0. Choose a number from 1"
        )

    def in_top(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = classes_of(labels)[:, None]
        of_label = jnp.take_along_axis(logits, jnp.clip(classes, 0, num_classes - 1), axis=-1)
        # NaN counts as larger, so that no prediction of a network that has diverged is correct.
        larger = ~(logits <= of_label)
        before = (logits == of_label) & (jnp.arange(num_classes) < classes)
        is_class = (classes >= 0) & (classes < num_classes)
        return ((larger | before).sum(axis=-1) < k) & is_class[:, 0]

    return Metric(in_top)
