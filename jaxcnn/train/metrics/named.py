"""Registered metrics. The flag `--metrics` selects metrics by name."""

import re
from collections.abc import Callable, Iterable
from functools import cache, partial

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.train.metrics.accuracy import accuracy, multi_label_accuracy, top
from jaxcnn.train.metrics.calibration import calibration_error
from jaxcnn.train.metrics.metric import Metric
from jaxcnn.train.metrics.per_class import balanced_accuracy, confusion, multi_label_per_class, per_class
from jaxcnn.train.registry import Registry

METRICS: Registry[Callable[[int], Metric]] = Registry(
    "metric",
    {
        "accuracy": accuracy,
        "top5": partial(top, 5),  # `make_metrics` accepts other numbers too
        "balanced_accuracy": balanced_accuracy,
        "per_class": per_class,
        "confusion": confusion,
        "calibration_error": calibration_error,
    },
)
"""Functions `(num_classes) -> Metric` by name, for examples with a single label."""

MULTI_LABEL_METRICS: Registry[Callable[[int], Metric]] = Registry(
    "metric", {"accuracy": multi_label_accuracy, "per_class": multi_label_per_class}
)
"""Functions `(num_classes) -> Metric` by name, for multi-hot labels `[N, classes]`."""

_TOP = re.compile(r"top(0|[1-9][0-9]{0,8})")


def make_metrics(names: Iterable[str], num_classes: int, multi_label: bool = False) -> dict[str, Metric]:
    """Return a dict of the metrics that have the given names.

    A second call with the same arguments returns the same objects, so that a step is not compiled a second time.

    Args:
      names: names in `METRICS`, or `top` with any number below the number of classes, such as `top3`.
      num_classes: number of logits.
      multi_label: whether labels are multi-hot, float32 `[N, classes]`. A class is then predicted if the sigmoid of its
        logit is above 0.5.

    Raises:
      UsageError: if a name is unknown, or if a metric does not support multi-hot labels. For an unknown name, the error
        message suggests the closest valid name.
    """
    return {name: _make(name, num_classes, multi_label) for name in names}


def check_metric_names(names: Iterable[str]) -> None:
    """Raise `UsageError` if a name is not the name of a metric, such as "top5"."""
    for name in names:
        if not _TOP.fullmatch(name) and name not in METRICS:
            raise unknown_name("metric", name, METRICS)


def _make(name: str, num_classes: int, multi_label: bool) -> Metric:
    check_metric_names([name])
    if multi_label and name not in MULTI_LABEL_METRICS:
        known = " or ".join(sorted(MULTI_LABEL_METRICS))
        raise UsageError(f"metric {name} needs one label for each example, but labels are multi-hot. Use {known}.")
    if multi_label:
        return _made(MULTI_LABEL_METRICS[name], num_classes)
    is_top = _TOP.fullmatch(name)
    return _made(top, int(is_top[1]), num_classes) if is_top else _made(METRICS[name], num_classes)


@cache
def _made(factory: Callable[..., Metric], *args: int) -> Metric:
    return factory(*args)
