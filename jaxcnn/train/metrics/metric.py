"""The class `Metric`: a pure function of logits and labels, and a function from sums over examples to a value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics.values import mean


@dataclass(frozen=True)
class Metric:
    """A metric of classification.

    Attributes:
      per_example: pure function `(logits [N, classes], labels) -> values` that runs inside the compiled step. The
        values are an array `[N, ...]`, a `OneHot`, or a dict of arrays and `OneHot`s. Labels are int32 `[N]`, or
        float32 `[N, classes]`.
      summarize: function `(sums, count) -> value` that runs on the host. `sums` are the sums of the values over `count`
        examples, in double precision. The value is a number, an array, or a dict of numbers and arrays. Default: the
        mean, `sums / count`.

    >>> import jax.numpy as jnp
    >>> accuracy = Metric(lambda logits, labels: logits.argmax(-1) == labels)
    >>> correct = accuracy.per_example(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]))
    >>> accuracy.summarize(correct.sum(), 2)
    0.5
    """

    per_example: Callable[[jax.Array, jax.Array], Any]
    summarize: Callable[[Any, float], Any] = mean


def as_metric(metric: Metric | Callable[[jax.Array, jax.Array], Any]) -> Metric:
    """Return a `Metric` unchanged. Convert a function `(logits, labels) -> [N]` to a metric: the mean of the function.

    Raises:
      UsageError: if `metric` is neither a `Metric` nor a function.

    >>> as_metric(lambda logits, labels: logits.argmax(-1) == labels).summarize(3.0, 4)
    0.75
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) or not callable(metric):
        shown = metric.__name__ if isinstance(metric, type) else type(metric).__name__
        raise UsageError(f"a metric must be a function of (logits, labels) or a jaxcnn.train.Metric, got {shown}.")
    return Metric(metric)


def as_metrics(given: Any) -> dict[str, Metric]:
    """Convert each value of a dict to a `Metric`; see `as_metric`.

    Raises:
      UsageError: if `given` is not a dict, or if a value is neither a `Metric` nor a function.
    """
    if not isinstance(given, Mapping):
        raise UsageError(
            f"metrics must be a dict of functions by name, got {type(given).__name__}. To use registered metrics, give "
            "their names in Config(metrics=...)."
        )
    return {name: as_metric(metric) for name, metric in given.items()}
