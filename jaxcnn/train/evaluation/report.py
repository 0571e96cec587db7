"""Per-class report of an evaluation: the precision, the recall and the most frequent wrong prediction of each class."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.errors import printable
from jaxcnn.train.metrics.per_class import mean_of

REPORT_METRICS = ("confusion",)
"""Names of the metrics that `class_report` uses if the evaluation has computed them."""

MOST_CONFUSED = 2_000
"""Largest number of classes for which a report uses the confusion matrix. A larger matrix needs too much memory."""

NUMBERS_FROM = 1
"""Index of the first column with numbers in the table of `report_cells`."""

Row = dict[str, Any]


def report_metrics(num_classes: int) -> tuple[str, ...]:
    """Return the names of the metrics to pass to `evaluate_trained` for a complete report."""
    return REPORT_METRICS if num_classes <= MOST_CONFUSED else ()


def class_report(values: Mapping[str, Any]) -> list[Row]:
    """Return one row of the report for each class, in the order of the classes.

    Args:
      values: the dict that `evaluate_trained` has returned.

    Returns:
      A dict for each class with the keys `class`, `precision`, `recall`, `f1` (None if undefined) and `images` (the
      number of test images). If `values` contains the metric `confusion`, each dict also has `taken_for` and
      `taken_for_images`. `taken_for` is the most frequent class among the wrong predictions, or None if all predictions
      are right. `taken_for_images` is the number of wrong predictions of the class `taken_for`.
    """
    classes = values["classes"]
    matrix = values.get("metrics", {}).get("confusion")
    rows = [_row(counts) for counts in classes]
    if matrix is None:
        return rows
    mistakes = np.array(matrix)
    np.fill_diagonal(mistakes, 0)
    for row, taken in zip(rows, mistakes, strict=True):
        most = int(taken.argmax())
        row["taken_for"] = classes[most]["class"] if taken[most] else None
        row["taken_for_images"] = int(taken[most])
    return rows


def _row(counts: Mapping[str, Any]) -> Row:
    hits = (counts["recall"] or 0.0) * counts["examples"]
    total = counts["examples"] + counts["predicted"]
    return {
        "class": counts["class"],
        "precision": counts["precision"],
        "recall": counts["recall"],
        "f1": 2 * hits / total if total else None,
        "images": counts["examples"],
    }


def report_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return a report as rows of text cells: a header, a row for each class, and a row with the means over classes."""
    with_mistakes = "taken_for" in rows[0]
    header = ("class", "precision", "recall", "F1", "images", *(("most often taken for",) if with_mistakes else ()))
    cells: list[tuple[str, ...]] = [header]
    for row in rows:
        fractions = [_percent(row[name]) for name in ("precision", "recall", "f1")]
        mistakes = (taken_for(row),) if with_mistakes else ()
        cells.append((printable(row["class"]), *fractions, f"{row['images']:,}", *mistakes))
    means = [_percent(mean_of([row[name] for row in rows])) for name in ("precision", "recall", "f1")]
    images = f"{sum(row['images'] for row in rows):,}"
    cells.append(("mean of classes", *means, images, *(("",) if with_mistakes else ())))
    return cells


def taken_for(row: Row) -> str:
    """Return the most frequent wrong prediction for a class, and its count, such as `shirt 134 (13.4%)`."""
    if row["taken_for"] is None:
        return "-"
    count = row["taken_for_images"]
    return f"{printable(row['taken_for'])} {count:,} ({count / row['images']:.1%})"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.2%}"


def report_markdown(rows: Sequence[Row]) -> str:
    """Return a report as a table in Markdown."""
    header, *lines = report_cells(rows)
    marks = [":--" if index < NUMBERS_FROM else "--:" for index in range(len(header))]
    shown = [header, marks, *[[_escaped(cell) for cell in line] for line in lines]]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def _escaped(cell: str) -> str:
    """Escape the characters of a cell that have a meaning in Markdown."""
    return "".join(f"\\{x}" if x in r"\|`*_[]<>" else x for x in cell)


def report_csv(rows: Sequence[Row]) -> str:
    """Return a report as CSV, with fractions from 0 to 1 in full precision. Undefined values are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([["" if value is None else value for value in row.values()] for row in rows])
    # A class name may contain characters that UTF-8 cannot encode. They are replaced by escape sequences.
    return text.getvalue().encode("utf-8", "backslashreplace").decode()
