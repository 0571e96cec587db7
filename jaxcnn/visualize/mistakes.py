"""The mistakes that a network was most sure of."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import grid, show


def most_confident_mistakes(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Indices of the wrongly classified images, the most probable wrong class first.

    >>> most_confident_mistakes(np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]), 5).tolist()
    [1, 0]
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:count]


def mistake_figure(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], count: int = 24
) -> Figure:
    """The most confident mistakes, each with what it was taken for, how surely, and what it is.

    Args:
      images: uint8 `[N, H, W, C]`.
      labels: `[N]`.
      probabilities: `[N, classes]`.
      class_names: one name a class.
      count: how many to show at most.

    Raises:
      UsageError: there is no mistake to be shown.
    """
    worst = most_confident_mistakes(labels, probabilities, count)
    if not len(worst):
        raise UsageError(f"there is no mistake to be shown: all {len(labels)} images are classified rightly")
    total = int((probabilities.argmax(axis=1) != labels).sum())
    title = f"The {len(worst)} most confident of {total:,} mistakes on {len(labels):,} images; in red, what was said"
    figure, panels = grid(len(worst), title, size=1.9, columns=6)
    for axes, index in zip(panels, worst, strict=True):
        taken = int(probabilities[index].argmax())
        show(axes, images[index])
        axes.set_title(f"{class_names[taken]} {probabilities[index][taken]:.0%}", fontsize=8, color="firebrick")
        axes.set_xlabel(f"is {class_names[int(labels[index])]}", fontsize=8, labelpad=3)
    return figure
