"""Figures of the most confident mistakes of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from jaxcnn.array_types import Float, Integer, Num
from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import grid, literal, show

MOST = 24
"""Default number of images in the figure."""


def most_confident_mistakes(
    labels: Integer[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], count: int
) -> Integer[np.ndarray, " mistakes"]:
    """Return the indices of misclassified images, in descending order of the probability of the predicted class.

    Args:
      labels: number of the true class of each image, `[N]`.
      probabilities: predicted probability of each class for each image, `[N, classes]`.
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
      image: the image, as a uint8 array `[H, W, C]`.
      label: number of the true class.
      predicted: number of the predicted class.
      probability: probability of the predicted class.
    """

    image: np.ndarray
    label: int
    predicted: int
    probability: float


class Mistakes:
    """Collect the most confident mistakes from batches of predictions. All other images are discarded.

    Args:
      count: maximum number of images.

    Attributes:
      worst: the most confident mistakes so far, as `Mistake`s in descending order of confidence.
      total: number of misclassified images so far.
      examined: number of all images so far, including images that are classified correctly.

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
          images: the images, as a uint8 array `[N, H, W, C]`.
          labels: number of the true class of each image, `[N]`.
          probabilities: predicted probability of each class for each image, `[N, classes]`.
        """
        predicted = probabilities.argmax(axis=1)
        self.examined += len(labels)
        self.total += int((predicted != labels).sum())
        for index in most_confident_mistakes(labels, probabilities, self._count):
            probability = float(probabilities[index].max())
            # A view would keep the whole batch in memory.
            self.worst.append(Mistake(images[index].copy(), int(labels[index]), int(predicted[index]), probability))
        self.worst = sorted(self.worst, key=lambda mistake: -mistake.probability)[: self._count]


def mistake_figure(
    images: Num[np.ndarray, "n h w c"],
    labels: Integer[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    class_names: Sequence[str],
    count: int = MOST,
) -> Figure:
    """Return a figure of the most confident mistakes: images with predicted class, probability and true class.

    Args:
      images: the images, as a uint8 array `[N, H, W, C]`.
      labels: number of the true class of each image, `[N]`.
      probabilities: predicted probability of each class for each image, `[N, classes]`.
      class_names: name of each class, in the order of the class numbers.
      count: maximum number of images.

    Raises:
      UsageError: all images are classified correctly.
    """
    mistakes = Mistakes(count)
    mistakes.add(images, labels, probabilities)
    return draw_mistakes(mistakes, class_names)


def draw_mistakes(mistakes: Mistakes, class_names: Sequence[str]) -> Figure:
    """Return a figure of mistakes collected in batches by `Mistakes`; see `mistake_figure`.

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
        _title(len(worst), mistakes.total, mistakes.examined),
        size=1.9,
        columns=6,
    )
    for axes, mistake in zip(panels, worst, strict=True):
        show(axes, mistake.image)
        prediction = f"{literal(class_names[mistake.predicted])} {mistake.probability:.0%}"
        axes.set_title(prediction, fontsize=8, color="firebrick")
        axes.set_xlabel(f"is {literal(class_names[mistake.label])}", fontsize=8, labelpad=3)
    return figure


def _title(shown: int, total: int, examined: int) -> str:
    """Return the title of the figure, which wraps where few panels make the figure narrow.

    >>> _title(1, 1, 60), _title(15, 15, 60)
    ('1 mistake\\non 60 images; prediction in red', '15 mistakes on 60 images; prediction in red')
    >>> _title(36, 1200, 2000)
    'The 36 most confident of 1,200 mistakes on 2,000 images; prediction in red'
    """
    mistakes = "1 mistake" if total == 1 else f"{total:,} mistakes"
    if shown < total:
        mistakes = f"The {shown} most confident of {mistakes}"
    between = "\n" if shown < 3 else " "
    return f"{mistakes}{between}on {examined:,} images; prediction in red"
