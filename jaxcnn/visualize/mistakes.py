"""The most confident mistakes of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.array_types import Float, Integer, Num
from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import grid, literal, show

MOST = 24
"""Default number of images."""


def most_confident_mistakes(
    labels: Integer[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], count: int
) -> Integer[np.ndarray, " mistakes"]:
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


@dataclass(frozen=True)
class Mistake:
    """A misclassified image.

    Attributes:
      image: uint8 `[H, W, C]`.
      label: true class.
      predicted: predicted class.
      probability: probability of the predicted class.
    """

    image: np.ndarray
    label: int
    predicted: int
    probability: float


class Mistakes:
    """The most confident mistakes among batches of predictions. No other images are kept.

    Args:
      count: maximum number of images.

    Attributes:
      worst: the most confident mistakes so far, ordered by confidence, descending.
      total: number of all mistakes so far.
      examined: number of images so far.

    >>> mistakes = Mistakes(count=1)
    >>> probabilities = np.array([[0.1, 0.9], [0.2, 0.8]])
    >>> mistakes.add(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), probabilities)
    >>> mistakes.total, mistakes.examined, mistakes.worst[0].predicted
    (1, 2, 1)
    """

    def __init__(self, count: int = MOST):
        self.worst: list[Mistake] = []
        self.total = self.examined = 0
        self._count = count

    def add(
        self,
        images: Num[np.ndarray, "n h w c"],
        labels: Integer[np.ndarray, " n"],
        probabilities: Float[np.ndarray, "n classes"],
    ) -> None:
        """Add a batch of predictions.

        Args:
          images: uint8 `[N, H, W, C]`.
          labels: true classes `[N]`.
          probabilities: predicted probabilities `[N, classes]`.
        """
        predicted = probabilities.argmax(axis=1)
        self.examined += len(labels)
        self.total += int((predicted != labels).sum())
        for index in most_confident_mistakes(labels, probabilities, self._count):
            probability = float(probabilities[index].max())
            # A copy, so that the batch is not kept.
            self.worst.append(Mistake(images[index].copy(), int(labels[index]), int(predicted[index]), probability))
        self.worst = sorted(self.worst, key=lambda mistake: -mistake.probability)[: self._count]


def mistake_figure(
    images: Num[np.ndarray, "n h w c"],
    labels: Integer[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    class_names: Sequence[str],
    count: int = MOST,
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
    mistakes = Mistakes(count)
    mistakes.add(images, labels, probabilities)
    return draw_mistakes(mistakes, class_names)


def draw_mistakes(mistakes: Mistakes, class_names: Sequence[str]) -> Figure:
    """Return the figure of `mistake_figure` for mistakes that were collected in batches.

    Raises:
      UsageError: all images are classified correctly.

    >>> mistakes = Mistakes(count=1)
    >>> mistakes.add(np.zeros((1, 8, 8, 1), np.uint8), np.array([0]), np.array([[0.1, 0.9]]))
    >>> draw_mistakes(mistakes, ["cat", "dog"]).axes[0].get_title()
    'dog 90%'
    """
    worst = mistakes.worst
    if not worst:
        raise UsageError(f"no mistakes to show: all {mistakes.examined} images are classified correctly")
    figure, panels = grid(
        len(worst),
        f"The {len(worst)} most confident of {mistakes.total:,} mistakes on {mistakes.examined:,} images; "
        "prediction in red",
        size=1.9,
        columns=6,
    )
    for axes, mistake in zip(panels, worst, strict=True):
        show(axes, mistake.image)
        prediction = f"{literal(class_names[mistake.predicted])} {mistake.probability:.0%}"
        axes.set_title(prediction, fontsize=8, color="firebrick")
        axes.set_xlabel(f"is {literal(class_names[mistake.label])}", fontsize=8, labelpad=3)
    return figure
