"""The confusion matrix and its picture."""

import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError


def test_each_row_is_a_true_class_and_each_column_a_predicted_one():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 0])
    matrix = visualize.confusion_matrix(labels, predicted, 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [2, 0, 0]]
    axes = visualize.confusion_figure(labels, predicted, ("a", "b", "c")).axes[0]
    assert axes.get_title() == "6 images, 50.00% correct"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert {text.get_position(): text.get_text() for text in axes.texts}[(1, 0)] == "1"


def test_the_metric_is_drawn_as_labels_and_predictions_are():
    labels, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    figures = (
        visualize.confusion_figure(labels, predicted, ("a", "b")),
        visualize.draw_confusion(np.array([[1.0, 1.0], [0.0, 1.0]]), ("a", "b")),
    )
    drawn = [[(text.get_position(), text.get_text()) for text in figure.axes[0].texts] for figure in figures]
    assert drawn[0] == drawn[1]
    assert figures[0].axes[0].get_title() == figures[1].axes[0].get_title()


def test_a_matrix_of_other_classes_is_refused():
    with pytest.raises(UsageError, match=r"of 3 classes must have shape \(3, 3\): \(2, 2\)"):
        visualize.draw_confusion(np.eye(2), ("a", "b", "c"))
