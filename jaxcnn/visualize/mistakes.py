"""The most confident mistakes of a network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import grid, show


def most_confident_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of misclassified images, ordered by the probability of the predicted class, descending.

    Args:
      labels: true classes `[N]`.
      probabilities: predicted probabilities `[N, classes]`.
      count: maximum number of indices.

    >>> most_confident_mistakes(np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]), 5).tolist()
    [1, 0]
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:count]


def mistake_figure(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], count: int = 24
) -> Figure:
    """Return a figure of the most confident mistakes, with predicted class, its probability, and true class.

    Args:
      images: uint8 `[N, H, W, C]`.
      labels: true classes `[N]`.
      probabilities: predicted probabilities `[N, classes]`.
      class_names: one name per class.
      count: maximum number of images.

    Raises:
      UsageError: all images are classified correctly.
    """
    worst = most_confident_mistakes(labels, probabilities, count)
    if not len(worst):
        raise UsageError(f"no mistakes to show: all {len(labels)} images are classified correctly")
    total = int((probabilities.argmax(axis=1) != labels).sum())
    title = f"The {len(worst)} most confident of {total:,} mistakes on {len(labels):,} images; prediction in red"
    figure, panels = grid(len(worst), title, size=1.9, columns=6)
    for axes, index in zip(panels, worst, strict=True):
        taken = int(probabilities[index].argmax())
        show(axes, images[index])
        axes.set_title(f"{class_names[taken]} {probabilities[index][taken]:.0%}", fontsize=8, color="firebrick")
        axes.set_xlabel(f"is {class_names[int(labels[index])]}", fontsize=8, labelpad=3)
    return figure
