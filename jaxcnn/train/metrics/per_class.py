"""Metrics of each class, from the number of its examples, of its predictions and of its correct predictions.

If each example has a single label, the predicted class is the class with the largest logit. In multi-label
classification, a class is predicted if the sigmoid of its logit is above 0.5. For segmentation, logits are
`[N, H, W, classes]` and labels are integers `[N, H, W]`. Pixels whose label is not a class are not counted.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.train.metrics.labels import classes_of, is_true
from jaxcnn.train.metrics.metric import Metric
from jaxcnn.train.metrics.sums import OneHot

Fractions = list[float | None]


def per_class(num_classes: int) -> Metric:
    """Return a metric: precision, recall and F1 of each class, their means over classes, and the underlying counts.

    The value is a dict with these entries:

    - `precision`: for each class, the fraction of the predictions of this class that are correct; None if the class was
      never predicted.
    - `recall`: for each class, the fraction of the examples of this class that are predicted correctly; None if the
      class has no examples.
    - `f1`: for each class, the harmonic mean of precision and recall, computed as
      `2 * correct predictions / (support + predicted)`; None if the class has neither examples nor predictions.
    - `support`: for each class, the number of examples of this class.
    - `predicted`: for each class, the number of predictions of this class.
    - `macro_precision`, `macro_recall`, `macro_f1`: the means over the classes for which the value is not None.
    """
    return Metric(lambda logits, labels: _counts(logits, labels, num_classes), _summary)


def balanced_accuracy(num_classes: int) -> Metric:
    """Return a metric: the mean recall over the classes that have examples."""

    def counts(logits: jax.Array, labels: jax.Array) -> dict[str, OneHot]:
        return {name: one_hot for name, one_hot in _counts(logits, labels, num_classes).items() if name != "predicted"}

    return Metric(counts, lambda sums, _: mean_of(_divide(sums["hits"], sums["support"])))


def confusion(num_classes: int) -> Metric:
    """Return a metric: the confusion matrix, int64 `[classes, classes]`.

    Entry (i, j) is the number of examples of class i that are predicted as class j.
    """

    def pairs(logits: jax.Array, labels: jax.Array) -> OneHot:
        index = jnp.stack([classes_of(labels), _predicted(logits)], axis=-1)
        return OneHot(index, (num_classes, num_classes))

    return Metric(pairs, lambda sums, _: np.asarray(sums).astype(np.int64))


def multi_label_per_class(num_classes: int) -> Metric:
    """Return a metric with the values of `per_class`, for multi-hot labels `[N, classes]`."""

    def counts(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        true, predicted = is_true(labels, logits), logits > 0  # a positive logit has a sigmoid above 0.5
        return {"support": true, "predicted": predicted, "hits": true & predicted}

    return Metric(counts, _summary)


def _predicted(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _counts(logits: jax.Array, labels: jax.Array, num_classes: int) -> dict[str, OneHot]:
    """Return one-hot arrays of the true class of each example, of its predicted class, and of correct predictions.

    If the label of an example is not a class, its prediction is not counted.
    """
    true, predicted = classes_of(labels), _predicted(logits)
    is_class = (true >= 0) & (true < num_classes)
    indices = {
        "support": true,
        "predicted": jnp.where(is_class, predicted, -1),
        "hits": jnp.where(true == predicted, true, -1),
    }
    return {name: OneHot(index[..., None], (num_classes,)) for name, index in indices.items()}


def _summary(sums: dict[str, Any], _: float) -> dict[str, Any]:
    hits, support, predicted = (np.asarray(sums[name]) for name in ("hits", "support", "predicted"))
    fractions = {
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, support),
        "f1": _divide(2 * hits, support + predicted),
    }
    return {
        **fractions,
        "support": support.astype(np.int64).tolist(),
        "predicted": predicted.astype(np.int64).tolist(),
        **{f"macro_{name}": mean_of(values) for name, values in fractions.items()},
    }


def _divide(parts: Any, wholes: Any) -> Fractions:
    return [float(part / whole) if whole else None for part, whole in zip(parts, wholes, strict=True)]


def mean_of(fractions: Sequence[float | None]) -> float | None:
    """Return the mean of the fractions that are not None, or None if all fractions are None."""
    defined = [fraction for fraction in fractions if fraction is not None]
    return sum(defined) / len(defined) if defined else None
