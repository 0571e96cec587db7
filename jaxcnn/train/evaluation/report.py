"""The report of each class of a test set: how good its predictions are, and which class it is taken for."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.errors import printable
from jaxcnn.train.metrics.per_class import mean_of

REPORT_METRICS = ("confusion",)
"""Metrics that `class_report` uses where an evaluation has them."""

MOST_CONFUSED = 2_000
"""With more classes, the confusion matrix would need too much memory."""

NUMBERS_FROM = 1
"""Index of the first column of `report_cells` with numbers."""

Row = dict[str, Any]


def report_metrics(num_classes: int) -> tuple[str, ...]:
    """Return the names of the metrics that an evaluation needs for a whole report."""
    return REPORT_METRICS if num_classes <= MOST_CONFUSED else ()


def class_report(values: Mapping[str, Any]) -> list[Row]:
    """Return a row for each class, in the order of the classes.

    Args:
      values: of `evaluate_trained`. The metric `confusion` adds the class that each class is most often taken for.

    Returns:
      Dicts of `class`, `precision`, `recall`, `f1` (each None where it is undefined) and `images`, the number of test
      images; with the confusion matrix also `taken_for`, the class that most of the incorrect predictions name (None
      if all are correct), and `taken_for_images`, their number.
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
    """Return a report as cells of text: a header, a row for each class, and the means over the classes."""
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
    """Return the class that a class is most often taken for, and how often, such as `shirt 134 (13.4%)`."""
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
    """Return the text of a cell in which Markdown reads no marks."""
    return "".join(f"\\{x}" if x in r"\|`*_[]<>" else x for x in cell)


def report_csv(rows: Sequence[Row]) -> str:
    """Return a report as CSV, with fractions from 0 to 1 in full precision. Undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([["" if value is None else value for value in row.values()] for row in rows])
    # Names that are not UTF-8 cannot be written as they are.
    return text.getvalue().encode("utf-8", "backslashreplace").decode()
