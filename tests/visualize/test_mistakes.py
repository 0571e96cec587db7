"""Pictures of the most confident mistakes."""

import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError
from jaxcnn.visualize.mistakes import most_confident_mistakes

CLASSES = ("dark", "bright")
IMAGES = np.zeros((4, 8, 8, 1), np.uint8)
LABELS = np.array([0, 1, 0, 1])
PROBABILITIES = np.array([[0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])


def test_mistakes_are_ordered_by_confidence():
    assert most_confident_mistakes(LABELS, PROBABILITIES, 2).tolist() == [2, 0]


def test_each_picture_says_the_predicted_class_and_the_true_one():
    figure = visualize.mistake_figure(IMAGES, LABELS, PROBABILITIES, CLASSES)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["bright 90%", "bright 70%", "dark 60%"]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["is dark", "is dark", "is bright"]


def test_predictions_without_a_mistake_are_refused():
    with pytest.raises(UsageError, match="no mistakes to show"):
        visualize.mistake_figure(IMAGES[:2], np.array([1, 1]), PROBABILITIES[:2], CLASSES)
