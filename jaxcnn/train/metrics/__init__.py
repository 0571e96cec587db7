"""Metrics of classification: pure functions of logits and labels, summed over examples, batches and devices."""

from jaxcnn.train.metrics.metric import Metric, as_metric, as_metrics
from jaxcnn.train.metrics.named import METRICS, MULTI_LABEL_METRICS, check_metric_names, make_metrics
from jaxcnn.train.metrics.sums import OneHot, Sums, add, means, sum_over_examples
from jaxcnn.train.metrics.values import as_arrays, as_json, as_lists, mean, numbers

__all__ = [
    "METRICS",
    "MULTI_LABEL_METRICS",
    "Metric",
    "OneHot",
    "Sums",
    "add",
    "as_arrays",
    "as_json",
    "as_lists",
    "as_metric",
    "as_metrics",
    "check_metric_names",
    "make_metrics",
    "mean",
    "means",
    "numbers",
    "sum_over_examples",
]
