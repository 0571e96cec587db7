"""Draw the learning curves of many networks: the mean of each setting, with a band of one standard deviation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.train.many.names import differing
from jaxcnn.train.many.results import PERCENT, Results, Setting
from jaxcnn.train.runtime._pictures import epoch_means
from jaxcnn.train.runtime.record import Row, read_rows

COLORS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")
"""Matplotlib's default colors without gray. Gray is the color of settings without a label."""

MOST_COLORS = len(COLORS)
"""Largest number of settings with a color and a label. If there are more settings, only the best are labeled."""


@dataclass(frozen=True)
class Curve:
    """The values of a metric by epoch, for all networks of a setting.

    Attributes:
      epochs: epochs for which there are values, an array `[E]`.
      values: value of the metric for each network and epoch, `[networks, E]`; NaN after a network has diverged or
        stopped early.
    """

    epochs: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of each epoch, `[E]`, over the networks that have a value in this epoch."""
        return np.nanmean(self.values, axis=0)

    @property
    def deviation(self) -> np.ndarray:
        """Sample standard deviation in each epoch, `[E]`, over the networks with a value; 0 for a single network."""
        counts = np.sum(~np.isnan(self.values), axis=0)
        squares = np.nansum((self.values - self.mean) ** 2, axis=0)
        return np.sqrt(squares / np.maximum(counts - 1, 1))


def curve(rows_of_networks: Sequence[Sequence[Row]], metric: str) -> Curve | None:
    """Return the curve of a metric, or None if no row contains the metric.

    Args:
      rows_of_networks: for each network, its rows of `metrics.jsonl`, one row for each epoch.
      metric: name of the metric.
    """
    series = [[(row["epoch"], row[metric]) for row in rows if metric in row] for rows in rows_of_networks]
    epochs = sorted({epoch for points in series for epoch, _ in points})
    if not epochs:
        return None
    places = {epoch: place for place, epoch in enumerate(epochs)}
    values = np.full((len(series), len(epochs)), np.nan)
    for network, points in enumerate(series):
        for epoch, value in points:
            values[network, places[epoch]] = value if np.isfinite(value) else np.nan
    kept = ~np.all(np.isnan(values), axis=0)
    return Curve(np.asarray(epochs)[kept], values[:, kept])


def draw(results: Results, metric: str, path: Path) -> None:
    """Write a PNG file with the training loss and an evaluated metric against the epoch.

    Each setting has a curve of the mean over its networks, with a band of one standard deviation.

    Args:
      results: results of the networks. The function reads the `metrics.jsonl` of each network.
      metric: name of the evaluated metric to draw, such as "accuracy".
      path: path of the PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = results.settings
    rows = {setting.name: [epoch_means(read_rows(run.workdir)) for run in setting.runs] for setting in settings}
    evaluated = any(evaluations for of_networks in rows.values() for _, evaluations in of_networks)
    split = _split([read_rows(run.workdir) for run in results.runs]) if evaluated else "test"
    scale = 100 if any(part in metric for part in PERCENT) else 1
    unit = " (%)" if scale == 100 else ""
    figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=120)
    panels = (
        ("loss", 0, 1, "training loss"),
        (metric, 1, scale, f"{split} {metric.replace('_', ' ')}{unit}"),
    )
    styles = _styles(
        settings, {name: [evaluations for _, evaluations in found] for name, found in rows.items()}, metric
    )
    for axes, (name, part, factor, label) in zip(figure.subplots(1, 2), panels, strict=True):
        ends = []
        for setting in settings:
            found = curve([pair[part] for pair in rows[setting.name]], name)
            if found is None:
                continue
            color, is_named = styles[setting.name]
            mean, deviation = factor * found.mean, factor * found.deviation
            style: dict[str, Any] = {"color": color, "zorder": 3 if is_named else 2, "lw": 1.8 if is_named else 0.8}
            axes.plot(found.epochs, mean, marker="o" if len(mean) == 1 else None, ms=3, **style)
            axes.fill_between(found.epochs, mean - deviation, mean + deviation, color=color, alpha=0.18, lw=0)
            if is_named:
                ends.append((float(found.epochs[-1]), float(mean[-1]), _label(setting), color))
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        _label_ends(axes, ends)
    networks = sorted({len(setting.runs) for setting in settings})
    counts = " to ".join(map(str, dict.fromkeys((networks[0], networks[-1]))))
    band = "; bands: one standard deviation" if networks[-1] > 1 else ""
    hidden = f"; the {MOST_COLORS} best of {len(settings)} settings are labeled" if len(settings) > MOST_COLORS else ""
    figure.suptitle(
        f"Mean of {counts} {'network' if counts == '1' else 'networks'} per setting{band}{hidden}", fontsize=11
    )
    figure.savefig(path)


def _split(rows_of_networks: Sequence[Sequence[Row]]) -> str:
    """Return the name of the split that the networks evaluate after each epoch: "validation" or "test"."""
    splits = {row["split"] for rows in rows_of_networks for row in rows}
    return "validation" if "validation" in splits else "test"


def _label(setting: Setting) -> str:
    """Return a short name of a setting for its curve, such as "learning rate 0.1"."""
    text = ", ".join(map(_short, setting.name.split(",")))
    return f"{text} ({setting.diverged} diverged)" if setting.diverged else text


def _short(part: str) -> str:
    """Return "learning rate 0.1" for "optimizer.learning_rate=0.1", and "lenet5" for "model=lenet5"."""
    name, _, value = part.partition("=")
    return value if name == "model" else f"{name.rpartition('.')[2].replace('_', ' ')} {value}"


def _styles(settings: Sequence[Setting], evaluations: dict[str, Any], metric: str) -> dict[str, tuple[Any, bool]]:
    """Return the color of each setting, and whether the setting gets a label.

    At most `MOST_COLORS` settings get a label: the settings whose last value of the metric is best. If settings differ
    in a single number, their colors are ordered by this number.
    """
    from matplotlib import colormaps

    labeled = [setting.name for setting in settings]
    if len(settings) > MOST_COLORS:

        def best(setting: Setting) -> float:
            found = curve(evaluations[setting.name], metric)
            last = float("nan") if found is None else float(found.mean[-1])
            lower_is_better = metric.endswith(("loss", "error"))
            return float("inf") if np.isnan(last) else last if lower_is_better else -last

        labeled = [setting.name for setting in sorted(settings, key=best)[:MOST_COLORS]]
    names = [name for name in differing([setting.config for setting in settings]) if name != "seed"]
    is_ordered = len(names) == 1 and len(labeled) > 2 and all(_is_number(setting.name) for setting in settings)
    if is_ordered:
        labeled.sort(key=lambda name: float(name.partition("=")[2]))
    colors = colormaps["viridis"](np.linspace(0.0, 0.85, len(labeled))) if is_ordered else COLORS
    chosen = {name: (color, True) for name, color in zip(labeled, colors, strict=False)}
    return {setting.name: chosen.get(setting.name, ("0.75", False)) for setting in settings}


def _is_number(name: str) -> bool:
    try:
        float(name.partition("=")[2])
    except ValueError:
        return False
    return True


def _label_ends(axes: Any, ends: list[tuple[float, float, str, Any]]) -> None:
    """Write a label at the end of each curve. Move labels up or down where they would overlap."""
    if len(ends) == 1 and ends[0][2] == "all":
        return
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)  # height of a line of text
    ends = sorted(ends, key=lambda end: end[1])
    heights = _apart([end[1] for end in ends], gap, low, high)
    right = max((end[0] for end in ends), default=0.0)
    for (_, _, text, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            text,
            (right, height),
            xytext=(6, 0),
            textcoords="offset points",
            color=color,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted heights apart until they differ by at least `gap`, as far as possible within `low` to `high`."""
    moved = list(heights)
    for _ in range(200):  # neighbors push each other apart
        for index in range(len(moved) - 1):
            overlap = gap - (moved[index + 1] - moved[index])
            if overlap > 0:
                moved[index] -= overlap / 2
                moved[index + 1] += overlap / 2
        moved = [min(max(height, low), high) for height in moved]
    return moved
