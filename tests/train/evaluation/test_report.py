"""The report of each class: its values, and its forms as CSV and Markdown."""

import csv
import io

import numpy as np
import pytest

from jaxcnn.train.evaluation.report import (
    MOST_CONFUSED,
    class_report,
    report_cells,
    report_csv,
    report_markdown,
    report_metrics,
)

NAMES = ("cat", "dog | *wolf*", 'a, "bird"', "unseen")
MATRIX = np.array([[6, 3, 1, 0], [2, 8, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]])


def values(*, confusion=True):
    """Return what an evaluation returns for the matrix."""
    hits, examples, predicted = np.diag(MATRIX).tolist(), MATRIX.sum(1).tolist(), MATRIX.sum(0).tolist()
    rows = [
        {
            "class": name,
            "precision": hits[i] / predicted[i] if predicted[i] else None,
            "recall": hits[i] / examples[i] if examples[i] else None,
            "examples": examples[i],
            "predicted": predicted[i],
        }
        for i, name in enumerate(NAMES)
    ]
    return {"classes": rows, **({"metrics": {"confusion": MATRIX.tolist()}} if confusion else {})}


def test_each_class_has_its_values_and_the_class_that_it_is_most_often_taken_for():
    cat, dog, bird, unseen = class_report(values())
    assert cat == {
        "class": "cat",
        "precision": 6 / 8,
        "recall": 0.6,
        "f1": pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6)),
        "images": 10,
        "taken_for": NAMES[1],
        "taken_for_images": 3,
    }
    assert (dog["taken_for"], dog["taken_for_images"]) == ("cat", 2)
    assert (bird["taken_for"], bird["taken_for_images"]) == (None, 0)
    assert [unseen[name] for name in ("precision", "recall", "f1", "images")] == [None, None, None, 0]


def test_the_text_ends_with_the_means_of_the_classes_that_have_values():
    header, cat, _, bird, unseen, means = report_cells(class_report(values()))
    assert header == ("class", "precision", "recall", "F1", "images", "most often taken for")
    assert cat == ("cat", "75.00%", "60.00%", "66.67%", "10", "dog | *wolf* 3 (30.0%)")
    assert bird[-1] == "-"
    assert unseen == ("unseen", "-", "-", "-", "0", "-")
    assert means[:3] == ("mean of classes", f"{(6 / 8 + 8 / 11 + 5 / 6) / 3:.2%}", "80.00%")
    assert means[4:] == ("25", "")


def test_without_a_confusion_matrix_the_report_has_no_mistakes():
    rows = class_report(values(confusion=False))
    assert all("taken_for" not in row for row in rows)
    assert {len(line) for line in report_cells(rows)} == {5}
    assert report_metrics(MOST_CONFUSED) == ("confusion",)
    assert report_metrics(MOST_CONFUSED + 1) == ()


def test_csv_is_read_back_as_the_same_values():
    rows = class_report(values())
    read = list(csv.DictReader(io.StringIO(report_csv(rows))))
    assert [row["class"] for row in read] == [*NAMES]
    for row, expected in zip(read, rows, strict=True):
        for name in ("precision", "recall", "f1"):
            assert (float(row[name]) if row[name] else None) == expected[name]
        assert row["taken_for"] == (expected["taken_for"] or "")
    rows[0]["class"] = "na\udcefve"
    assert report_csv(rows).isascii()


def test_markdown_shows_the_text_of_class_names():
    lines = report_markdown(class_report(values())).splitlines()
    assert len(lines) == len(NAMES) + 3
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[3].startswith(r"| dog \| \*wolf\* | 72.73% |")
