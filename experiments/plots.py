"""How figures of experiments look: the same size, colours and bands of spread in all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.experiment import deviation

DPI = 110


def figure(title: str, columns: int = 1, rows: int = 1, width: float = 0.0, **options: Any) -> tuple[Figure, Any]:
    """A figure titled by its finding, and its axes (one, or an array of them)."""
    size = (width or (7.0 if columns == 1 else 4.2 * columns), 4.2 if rows == 1 else 3.3 * rows + 0.6)
    made = Figure(figsize=size, layout="constrained", dpi=DPI)
    axes = made.subplots(rows, columns, **options)
    made.suptitle(title, fontsize=12)
    for one in np.ravel(axes):
        one.grid(alpha=0.3)
    return made, axes


def curve(axes: Any, x: Any, values: Any, label: str = "", **style: Any) -> None:
    """The mean over seeds (the first axis of `[S, X]`) as a line, and their standard deviation as a band."""
    values = np.asarray(values, dtype=float)
    mean = values.mean(axis=0)
    (line,) = axes.plot(x, mean, label=label, **style)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(x, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, lw=0)


def points(axes: Any, x: Sequence[Any], values: Sequence[Any], label: str = "", **style: Any) -> None:
    """For each x the mean over seeds, with a bar of their standard deviation. `values[i]` are those of `x[i]`."""
    arrays = [np.asarray(v, dtype=float) for v in values]
    axes.errorbar(
        x,
        [a.mean() for a in arrays],
        yerr=[deviation(a) for a in arrays],
        label=label,
        **{"marker": "o", "capsize": 3, **style},
    )


def bars(axes: Any, names: Sequence[str], values: Sequence[Any], label: str = "{:.1f}", **style: Any) -> None:
    """For each name a bar up to the mean over seeds, with their standard deviation and its number written on it."""
    arrays = [np.atleast_1d(np.asarray(v, dtype=float)) for v in values]
    container = axes.bar(names, [a.mean() for a in arrays], yerr=[deviation(a) for a in arrays], capsize=3, **style)
    axes.bar_label(container, labels=[label.format(a.mean()) for a in arrays], padding=2, fontsize=9)
    axes.margins(y=0.15)
    axes.grid(visible=False, axis="x")


def panels(title: str, drawn: dict[str, dict[str, Any]], x: Any, columns: int, **labels: str) -> Figure:
    """A grid of curves `{panel: {label: [S, X]}}` on the same axes; `labels` are those of the axes."""
    columns = min(columns, len(drawn))
    made, axes = figure(title, columns, -(-len(drawn) // columns), width=11, sharey=True, squeeze=False)
    for side, (name, curves) in zip(axes.flat, drawn.items(), strict=False):
        for index, (label, values) in enumerate(curves.items()):
            curve(side, x, values, label, ls=(":", "--", "-")[index % 3], color=f"C{index % 3 + index // 3 * 3}")
        side.set(title=name, **labels)
        side.legend(fontsize=7)
    return made


def percentiles(axes: Any, x: Any, values: Any, **style: Any) -> None:
    """The median as a line, in a band from a low to a high percentile. `values` are the three, `[X, 3]`."""
    low, median, high = np.asarray(values, dtype=float).T
    (line,) = axes.plot(x, median, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, lw=0)


def descent(axes: Any, axis: Any, surface: Any, paths: Any, names: Sequence[str]) -> None:
    """A slice of the loss, brighter where it is lower, and named paths of descent on it `[len(names), steps, 2]`."""
    axes.contourf(axis, axis, np.log(surface), 20, cmap="Greys")
    for name, path in zip(names, paths, strict=True):
        axes.plot(*np.asarray(path).T, marker=".", ms=4, lw=1, label=name)
    axes.legend(loc="lower right")
    axes.set(xlabel="distance in a first direction of the parameters", ylabel="in a second direction")
