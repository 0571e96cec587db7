"""Weights of classes in the training loss, for training sets in which some classes are rare."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.errors import UsageError


def label_counts(dataset: Dataset) -> np.ndarray:
    """Return the number of training examples of each class, as an array `[classes]`.

    Raises:
      UsageError: if a training example does not have exactly one class.
    """
    labels = dataset.labels("train")
    if labels is None or labels.ndim != 1 or not dataset.class_names:
        raise UsageError(
            f"class_weights need one class per image, which dataset {dataset.name!r} does not have. Omit class_weights."
        )
    return np.bincount(labels, minlength=dataset.num_classes)


def normalized_weights(weights: Sequence[float] | Literal["balanced"], dataset: Dataset) -> tuple[float, ...]:
    """Normalize class weights so that the mean weight over the training examples is 1.

    The scale of the loss then stays the same as without weights, and the learning rate need not change. "balanced"
    weights are inversely proportional to the number of training examples of the class: `examples / (classes * count)`,
    where `classes` is the number of classes with training examples. Classes without training examples get a weight of
    0.

    Raises:
      UsageError: if the number of weights differs from the number of classes, if all training examples have a weight of
        0, or if a training example does not have exactly one class.
    """
    classes = dataset.num_classes
    if weights != "balanced" and len(weights) != classes:
        raise UsageError(f"class_weights has {len(weights)} weights for {classes} classes. Give one weight per class.")
    counts = label_counts(dataset)
    if weights == "balanced":
        chosen = np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0)
    else:
        chosen = np.asarray(weights, np.float64)
    mean = (chosen * counts).sum() / counts.sum()
    if mean == 0:
        raise UsageError(
            "class_weights is 0 for all classes of the training set. "
            "Give at least one class of the training set a positive weight."
        )
    return tuple((chosen / mean).tolist())
