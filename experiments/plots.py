"""Plots shared by the experiments: same sizes and colors, and standard deviations over seeds as bands or bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.experiment import standard_deviation

DPI = 110


def figure(title: str, columns: int = 1, rows: int = 1, width: float = 0.0, **options: Any) -> tuple[Figure, Any]:
    """Return a figure with a title, and its axes: one, or an array of them.

    Args:
      title: the finding or the subject, as a sentence.
      columns: axes per row.
      rows: number of rows.
      width: in inches; by default it follows from the columns.
      **options: passed to `Figure.subplots`.
    """
    size = (width or (7.0 if columns == 1 else 4.2 * columns), 4.2 if rows == 1 else 3.3 * rows + 0.6)
    made = Figure(figsize=size, layout="constrained", dpi=DPI)
    axes = made.subplots(rows, columns, **options)
    made.suptitle(title, fontsize=12)
    for axis in np.ravel(axes):
        axis.grid(alpha=0.3)
    return made, axes


def curve(axes: Any, x: Any, values: Any, label: str = "", **style: Any) -> None:
    """Draw the mean over seeds of `values [S, X]` as a line, with their standard deviation as a band."""
    values = np.asarray(values, dtype=float)
    mean = values.mean(axis=0)
    (line,) = axes.plot(x, mean, label=label, **style)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(x, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, lw=0)


def points(axes: Any, x: Sequence[Any], values: Sequence[Any], label: str = "", **style: Any) -> None:
    """Draw for each x the mean over seeds of `values[i] [S]`, with an error bar of one standard deviation."""
    arrays = [np.asarray(v, dtype=float) for v in values]
    axes.errorbar(
        x,
        [a.mean() for a in arrays],
        yerr=[standard_deviation(a) for a in arrays],
        label=label,
        **{"marker": "o", "capsize": 3, **style},
    )


def bars(axes: Any, names: Sequence[str], values: Sequence[Any], label: str = "{:.1f}", **style: Any) -> None:
    """Draw a bar for each name: the mean over seeds, its number, and an error bar of one standard deviation."""
    arrays = [np.atleast_1d(np.asarray(v, dtype=float)) for v in values]
    means, deviations = [a.mean() for a in arrays], [standard_deviation(a) for a in arrays]
    container = axes.bar(names, means, yerr=deviations, capsize=3, **style)
    axes.bar_label(container, labels=[label.format(mean) for mean in means], padding=2, fontsize=9)
    axes.margins(y=0.15)
    axes.grid(visible=False, axis="x")


def panels(title: str, drawn: dict[str, dict[str, Any]], x: Any, columns: int, **labels: str) -> Figure:
    """Return a grid of panels of curves `{panel: {label: [S, X]}}`; `labels` are those of the axes."""
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    made, axes = figure(title, columns, rows, width=11, sharey=True, squeeze=False)
    for axis, (name, curves) in zip(axes.flat, drawn.items(), strict=False):
        for index, (label, values) in enumerate(curves.items()):
            curve(axis, x, values, label, ls=(":", "--", "-")[index % 3], color=f"C{index % 3 + index // 3 * 3}")
        axis.set(title=name, **labels)
        axis.legend(fontsize=7)
    return made


def percentiles(axes: Any, x: Any, values: Any, **style: Any) -> None:
    """Draw a median as a line, in a band from a low to a high percentile. `values [X, 3]` are low, median, high."""
    low, median, high = np.asarray(values, dtype=float).T
    (line,) = axes.plot(x, median, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, lw=0)


def descent(axes: Any, axis: Any, surface: Any, paths: Any, names: Sequence[str]) -> None:
    """Draw a slice of the loss, brighter where it is lower, and named paths of descent `[len(names), steps, 2]`."""
    axes.contourf(axis, axis, np.log(surface), 20, cmap="Greys")
    for name, path in zip(names, paths, strict=True):
        axes.plot(*np.asarray(path).T, marker=".", ms=4, lw=1, label=name)
    axes.legend(loc="lower right")
    axes.set(xlabel="distance along the first principal direction", ylabel="along the second")
