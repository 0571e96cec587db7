"""A figure of the recall and the precision of each class."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jaxcnn.visualize._panels import literal

MOST_CLASSES = 100
"""Largest number of classes in the figure. If there are more classes, the classes with the lowest recall are drawn."""
MOST_LARGE = 30
"""Largest number of classes with wide bars and a large font."""


def report_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return a figure with a bar for the recall of each class, highest first, and a point for its precision.

    The label of each bar shows the number of test images of the class, and the most frequent wrong prediction. If there
    are more than 100 classes, the figure shows the 100 classes with the lowest recall.

    Args:
      rows: one dict per class, from `jaxcnn.train.evaluation.class_report`.

    >>> figure = report_figure([{"class": "cat", "images": 10, "recall": 0.9, "precision": 0.8}])
    >>> figure.get_suptitle()
    '10 test images of 1 classes, mean recall 90.00%'
    """
    tested = sorted((row for row in rows if row["recall"] is not None), key=lambda row: -row["recall"])
    title = f"{sum(row['images'] for row in rows):,} test images of {len(tested):,} classes"
    if tested:
        title += f", mean recall {sum(row['recall'] for row in tested) / len(tested):.2%}"
    drawn = [*tested, *(row for row in rows if row["recall"] is None)]
    if len(drawn) > MOST_CLASSES:
        drawn = tested[-MOST_CLASSES:] or drawn[:MOST_CLASSES]
        title += f". Shown: the {len(drawn)} classes with the lowest recall"
    large = len(drawn) <= MOST_LARGE
    height = (0.3 if large else 0.17) * len(drawn) + 2
    figure = Figure(figsize=(10, height), layout="constrained", dpi=120)
    axes = figure.subplots()
    _draw(axes, drawn, font=9 if large else 7)
    figure.suptitle(title, fontsize=11)
    # The legend is outside of the axes, so that it covers no bar.
    figure.legend(loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    return figure


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], font: float) -> None:
    places = range(len(rows))
    axes.barh(places, [100 * (row["recall"] or 0) for row in rows], height=0.7, color="tab:blue", label="recall")
    precise = [place for place, row in enumerate(rows) if row["precision"] is not None]
    precision = [100 * rows[place]["precision"] for place in precise]
    axes.plot(precision, precise, "D", color="tab:orange", markersize=font / 2, label="precision", clip_on=False)
    axes.set_yticks(places, [literal(row["class"]) for row in rows], fontsize=font)
    axes.set(xlabel="recall and precision (%)", ylabel="class", xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter())
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(places, [_counts(row) for row in rows], fontsize=font)
    beside.tick_params(length=0)
    header = "images, most often taken for" if "taken_for" in rows[0] else "images"
    axes.annotate(header, (1, 1), (4, 4), xycoords="axes fraction", textcoords="offset points", fontsize=9)


def _counts(row: Mapping[str, Any]) -> str:
    """Return the text of a row: the number of images of a class, and their most frequent wrong prediction."""
    images = f"{row['images']:,}"
    if row.get("taken_for") is None:
        return images
    return f"{images}, {literal(row['taken_for'])} ({row['taken_for_images'] / row['images']:.1%})"
