"""The confusion matrix: which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

# Beyond this many classes numbers and names would not be readable.
MOST_NUMBERS = 20
MOST_NAMES = 60


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often class i was taken for class j, `[classes, classes]`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The confusion matrix, a row for each true class; shades are shares of the row, numbers are counts."""
    count = len(class_names)
    matrix = confusion_matrix(labels, predicted, count)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(4.5, 0.55 * count + 2), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=120)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{matrix.sum():,} images, {accuracy:.2%} right")
    if count <= MOST_NAMES:
        axes.set_xticks(range(count), class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), class_names)
    if count <= MOST_NUMBERS:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{number}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    return figure
