"""The table of results in README.md, and the figure of each entry."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.ticker import NullLocator

from experiments import plots
from experiments.published.entries import ENTRIES, Entry
from experiments.published.store import RESULTS, read

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
EMPTY = "No recipe has been completed. Run `python -m experiments.published run NAME`."
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
HEAD = (
    "| network | dataset | published | measured | seeds | minutes | dtype | results |",
    "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
)


def table(results: Path = RESULTS, link: str = "experiments/results/recipes") -> str:
    """Return the table of all entries that have results, in Markdown.

    Args:
      results: folder of the results.
      link: the same folder, as the page links to it.
    """
    stored = {entry: read(entry, results) for entry in ENTRIES}
    rows = [_row(entry, seeds, link) for entry, seeds in stored.items() if seeds]
    kinds = sorted({f"{seed['machine']}, jax {seed['versions']['jax']}" for seeds in stored.values() for seed in seeds})
    notes = [
        "Each accuracy is measured on all test images after the last training step. ± is the standard deviation over "
        "seeds. The column `minutes` is the time of all training steps of one run; `-` means that other programs used "
        f"the machine during the run. All rows were measured on {'; '.join(kinds)}. To train the networks of a row "
        "again, run `python -m experiments.published run NAME`, where NAME is the text in the column `results`. The "
        "command resumes an interrupted run, and updates this table.",
    ]
    return "\n".join([*HEAD, *rows, "", *notes]) if rows else EMPTY


def _row(entry: Entry, seeds: Sequence[dict[str, Any]], link: str) -> str:
    accuracies = [100 * seed["test_accuracy"] for seed in seeds]
    measured = f"{fmean(accuracies):.2f} %"
    if len(seeds) > 1:
        measured += f" ± {stdev(accuracies):.2f}"
    times = [seed["seconds"] / 60 for seed in seeds if seed["seconds"]]
    minutes = f"{fmean(times):.1f}" if times else "-"
    published = f"{100 * entry.accuracy:.2f} % ({entry.source})"
    cells = (entry.network, entry.dataset, published, measured, str(len(seeds)), minutes, seeds[0]["dtype"])
    return f"| {' | '.join(cells)} | [{entry.name}]({link}/{entry.name}) |"


def figure(entry: Entry, seeds: Sequence[dict[str, Any]]) -> Any:
    """Return a figure of test and training error by epoch, of all seeds."""
    accuracy = fmean(seed["test_accuracy"] for seed in seeds)
    title = f"{entry.network} on {entry.dataset}: {accuracy:.2%} test accuracy"
    made, axes = plots.figure(title)
    for index, seed in enumerate(seeds):
        for rows, color, label in ((seed["training"], "C0", "training"), (seed["tests"], "C1", "test")):
            epochs, errors = [row["epoch"] for row in rows], [100 * (1 - row["accuracy"]) for row in rows]
            marker = "o" if len(rows) == 1 else ""
            axes.plot(epochs, errors, color=color, alpha=0.8, marker=marker, label="" if index else label)
    axes.axhline(100 * (1 - entry.accuracy), color="0.4", ls="--", lw=1)
    axes.annotate(
        f"{'aim' if entry.source == 'aim' else 'published'}: {100 * (1 - entry.accuracy):.2f} %",
        (0.02, 100 * (1 - entry.accuracy)),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color="0.2",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=3,  # above the curves
    )
    axes.set(xlabel="epoch", ylabel="error, %", yscale="log")
    low, high = axes.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend()
    return made
