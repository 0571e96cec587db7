"""Accuracy metrics: top-1 accuracy, top-k accuracy, and multi-label accuracy."""

import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics.labels import classes_of, is_true
from jaxcnn.train.metrics.metric import Metric


def accuracy(num_classes: int) -> Metric:
    """Return a metric: the fraction of examples whose label has the largest logit."""
    return Metric(lambda logits, labels: jnp.argmax(logits, axis=-1) == classes_of(labels))


def multi_label_accuracy(num_classes: int) -> Metric:
    """Return a metric: the fraction of correct predictions, over all pairs of an example and a class.

    A class is predicted if the sigmoid of its logit is above 0.5.
    """
    return Metric(lambda logits, labels: ((logits > 0) == is_true(labels, logits)).mean(axis=-1, dtype=jnp.float32))


def top(k: int, num_classes: int) -> Metric:
    """Return a metric: the fraction of examples whose label is among the classes with the `k` largest logits.

    Among equal logits, the logit of the class with the smaller index counts as larger, as in `argmax`.

    Raises:
      UsageError: if `k` is below 1, or at least `num_classes`.
    """
    if not 1 <= k < num_classes:
        raise UsageError(
            f"metric top{k} needs more than {k} classes, got {num_classes}. Use top1 to top{num_classes - 1}."
            if k
            else "metric top0 is not valid. Use a number of at least 1, such as top5."
        )

    def in_top(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = classes_of(labels)[:, None]
        of_label = jnp.take_along_axis(logits, jnp.clip(classes, 0, num_classes - 1), axis=-1)
        # A NaN logit counts as larger, so that all predictions of a network that has diverged are wrong.
        larger = ~(logits <= of_label)
        before = (logits == of_label) & (jnp.arange(num_classes) < classes)
        is_class = (classes >= 0) & (classes < num_classes)
        return ((larger | before).sum(axis=-1) < k) & is_class[:, 0]

    return Metric(in_top)
