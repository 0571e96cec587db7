"""Calibration metric: the difference between the confidence of a classifier and its accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.train.metrics.labels import classes_of
from jaxcnn.train.metrics.metric import Metric
from jaxcnn.train.metrics.sums import OneHot

BINS = 15
"""Number of confidence bins of equal width, as in Guo et al., 2017."""


def calibration_error(num_classes: int) -> Metric:
    """Return a metric: the expected calibration error, the mean of |accuracy - confidence| over confidence bins.

    Source: Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, 2017, equation 3. The
    confidence is the largest probability of the softmax. Bin m of M contains the confidences in ((m - 1) / M, m / M],
    and bins are weighted by their number of examples.
    """

    def by_bin(logits: jax.Array, labels: jax.Array) -> dict[str, Any]:
        probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        confidence = probabilities.max(axis=-1)
        place = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
        correct = jnp.argmax(logits, axis=-1) == classes_of(labels)
        return {
            "confidence": jax.nn.one_hot(place, BINS) * confidence[:, None],
            "correct": OneHot(jnp.where(correct, place, -1)[:, None], (BINS,)),
        }

    def summarize(sums: Any, count: float) -> float:
        gaps = np.abs(np.asarray(sums["correct"], np.float64) - np.asarray(sums["confidence"], np.float64))
        return float(gaps.sum() / count) if count else float("nan")

    return Metric(by_bin, summarize)
