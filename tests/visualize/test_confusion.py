"""The confusion matrix and its picture."""

import numpy as np

from jaxcnn import visualize


def test_each_row_is_a_true_class_and_each_column_a_predicted_one():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 0])
    matrix = visualize.confusion_matrix(labels, predicted, 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [2, 0, 0]]
    axes = visualize.confusion_figure(labels, predicted, ("a", "b", "c")).axes[0]
    assert axes.get_title() == "6 images, 50.00% correct"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert {text.get_position(): text.get_text() for text in axes.texts}[(1, 0)] == "1"
