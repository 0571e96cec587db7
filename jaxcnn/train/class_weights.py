"""Weights of classes in the training loss, for training sets in which some classes are rare."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.errors import UsageError


def label_counts(dataset: Dataset) -> np.ndarray:
    """Return the number of training examples of each class, `[classes]`. It reads the labels of the training set.

    Raises:
      UsageError: if the training examples do not have one class each.
    """
    labels = dataset.labels("train")
    if labels is None or labels.ndim != 1 or not dataset.class_names:
        raise UsageError(f"class_weights need one class for each image of dataset {dataset.name!r}. Omit class_weights")
    return np.bincount(labels, minlength=dataset.num_classes)


def normalized_weights(weights: Sequence[float] | Literal["balanced"], dataset: Dataset) -> tuple[float, ...]:
    """Return the weight of each class, such that the training examples have a mean weight of 1.

    The loss then has the same scale as without weights, and so has the learning rate that suits it. "balanced" weights
    are inverse to the number of examples of the class: `examples / (classes * count)`, where classes without training
    examples do not count, and have a weight of 0.

    Raises:
      UsageError: if the number of weights is not the number of classes, each training example has a weight of 0, or
        the examples do not have one class each.
    """
    classes = dataset.num_classes
    if weights != "balanced" and len(weights) != classes:
        raise UsageError(f"class_weights has {len(weights)} weights for {classes} classes. Give one for each class")
    counts = label_counts(dataset)
    if weights == "balanced":
        chosen = np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0)
    else:
        chosen = np.asarray(weights, np.float64)
    mean = (chosen * counts).sum() / counts.sum()
    if mean == 0:
        raise UsageError("class_weights is 0 for each class of the training set. Give one of them a positive weight")
    return tuple((chosen / mean).tolist())
