"""Metrics of each class, from the numbers of its examples, its predictions and its correct predictions.

With one label for each example, a class is predicted where its logit is the largest. With several labels
(multi-label), a class is predicted where the sigmoid of its logit is above 0.5. With a label for each pixel, logits are
`[N, H, W, classes]` and labels integers `[N, H, W]`; pixels whose label is not a class do not count.
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
    """Return precision, recall and F1 of each class, their means, and the numbers that they come from.

    The value is a dict of these. A fraction is None where it is undefined.

    - `precision`: the fraction of the predictions of the class that are correct; None if it was never predicted.
    - `recall`: the fraction of the examples of the class that were predicted as it; None without examples.
    - `f1`: `2 hits / (support + predicted)`, the harmonic mean of both; None if both are undefined.
    - `support`, `predicted`: the numbers of examples and of predictions of the class.
    - `macro_precision`, `macro_recall`, `macro_f1`: the means over the classes where they are defined.
    """
    return Metric(lambda logits, labels: _counts(logits, labels, num_classes), _summary)


def balanced_accuracy(num_classes: int) -> Metric:
    """Return the mean recall over the classes that have examples."""

    def counts(logits: jax.Array, labels: jax.Array) -> dict[str, OneHot]:
        return {name: one_hot for name, one_hot in _counts(logits, labels, num_classes).items() if name != "predicted"}

    return Metric(counts, lambda sums, _: mean_of(_divide(sums["hits"], sums["support"])))


def confusion(num_classes: int) -> Metric:
    """Return the confusion matrix, int64 `[classes, classes]`: the number of examples of class i predicted as j."""

    def pairs(logits: jax.Array, labels: jax.Array) -> OneHot:
        index = jnp.stack([classes_of(labels), _predicted(logits)], axis=-1)
        return OneHot(index, (num_classes, num_classes))

    return Metric(pairs, lambda sums, _: np.asarray(sums).astype(np.int64))


def multi_label_per_class(num_classes: int) -> Metric:
    """Return what `per_class` returns, for labels `[N, classes]` of which an example has any number."""

    def counts(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        true, predicted = is_true(labels, logits), logits > 0  # where the sigmoid is above 0.5
        return {"support": true, "predicted": predicted, "hits": true & predicted}

    return Metric(counts, _summary)


def _predicted(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _counts(logits: jax.Array, labels: jax.Array, num_classes: int) -> dict[str, OneHot]:
    """Return the class of each example, its prediction, and the class if both agree, as one-hot arrays.

    The prediction does not count where the label is not a class, as in the confusion matrix.
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
    """Return the mean of the fractions that are defined, or None if none is."""
    defined = [fraction for fraction in fractions if fraction is not None]
    return sum(defined) / len(defined) if defined else None
