"""Figures of the confusion matrix of a classifier."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.array_types import AnyArray, Integer, Num
from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import literal

# Largest numbers of classes for which counts and class names are large enough to read.
MOST_NUMBERS = 20
MOST_NAMES = 60


def confusion_matrix(
    labels: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"], classes: int
) -> Integer[np.ndarray, "classes classes"]:
    """Return the confusion matrix `[classes, classes]`: entry (i, j) counts images of class i predicted as class j.

    Args:
      labels: number of the true class of each image, `[N]`.
      predicted: number of the predicted class of each image, `[N]`.
      classes: number of classes.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion_figure(
    labels: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"], class_names: Sequence[str]
) -> Figure:
    """Return a figure of the confusion matrix, with one row for each true class.

    The number in a cell is a count of images. The color of a cell shows this count divided by the sum of the row.

    Args:
      labels: number of the true class of each image, `[N]`.
      predicted: number of the predicted class of each image, `[N]`.
      class_names: name of each class, in the order of the class numbers.

    >>> figure = confusion_figure(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ["cat", "dog"])
    >>> figure.axes[0].get_title()
    '4 images, 75.00% correct'
    """
    return draw_confusion(confusion_matrix(labels, predicted, len(class_names)), class_names)


def draw_confusion(matrix: Num[AnyArray, "classes classes"], class_names: Sequence[str]) -> Figure:
    """Return a figure of a confusion matrix, such as the metric `confusion`; see `confusion_figure`.

    Args:
      matrix: confusion matrix `[classes, classes]`: entry (i, j) counts images of class i predicted as class j.
      class_names: name of each class, in the order of the class numbers.

    Raises:
      UsageError: the matrix does not have one row and one column for each class.

    >>> draw_confusion(np.array([[3, 1], [0, 4]]), ["cat", "dog"]).axes[0].get_title()
    '8 images, 87.50% correct'
    """
    matrix, count = np.asarray(matrix).astype(np.int64), len(class_names)
    if matrix.shape != (count, count):
        raise UsageError(
            f"the confusion matrix of {count} classes must have shape {(count, count)}: {matrix.shape}. "
            "Give a class name for each row"
        )
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(4.5, 0.55 * count + 2), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=120)
    axes = figure.subplots()
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{matrix.sum():,} images, {accuracy:.2%} correct")
    if count <= MOST_NAMES:
        names = [literal(name) for name in class_names]
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
    if count <= MOST_NUMBERS:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                color = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(column, row, f"{number}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(picture, ax=axes, label="fraction of the true class", shrink=0.8)
    return figure
