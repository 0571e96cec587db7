"""The picture of the report of each class."""

import itertools

import numpy as np
import pytest

from jaxcnn.visualize import report_figure


def rows(count):
    """Return a report in which class i has a recall of i / count; the last class has no images."""
    made = [
        {
            "class": f"class {i}",
            "precision": 0.5 if i else None,
            "recall": i / count,
            "f1": 0.5,
            "images": 100,
            "taken_for": "class 0" if i % 2 else None,
            "taken_for_images": 7 * (i % 2),
        }
        for i in range(count)
    ]
    made[-1].update(precision=None, recall=None, images=0, taken_for=None, taken_for_images=0)
    return made


def test_bars_are_the_recalls_from_the_highest_to_the_lowest():
    axes = report_figure(rows(5)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"class {i}" for i in (3, 2, 1, 0, 4)]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [60, 40, 20, 0, 0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall and precision (%)", "class")
    points = axes.lines[0]
    assert points.get_label() == "precision"
    np.testing.assert_allclose([points.get_xdata(), points.get_ydata()], [[50, 50, 50], [0, 1, 2]])


def test_images_and_the_most_frequent_mistake_stand_beside_each_bar():
    figure = report_figure(rows(5))
    beside = figure.axes[0].child_axes[0]
    texts = ["100, class 0 (7.0%)", "100", "100, class 0 (7.0%)", "100", "0"]
    assert [label.get_text() for label in beside.get_yticklabels()] == texts
    assert figure.get_suptitle() == "400 test images of 4 classes, mean recall 30.00%"


def test_of_many_classes_those_with_the_lowest_recall_are_drawn():
    figure = report_figure(rows(150))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"class {i}" for i in range(99, -1, -1)]
    assert "the 100 classes with the lowest recall" in figure.get_suptitle()


@pytest.mark.parametrize("count", [2, 30, 31, 100])
def test_texts_do_not_overlap_and_none_is_cut_off(count):
    many = rows(count)
    many[0]["class"] = "$a very long name of a class, which has many words$"
    figure = report_figure(many)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for labels in (axes.get_yticklabels(), axes.child_axes[0].get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert all(lower.y1 < upper.y0 + 1 for upper, lower in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    assert axes.get_window_extent().width > 0.3 * figure.bbox.width
