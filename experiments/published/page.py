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
        "Accuracies are of all test images, after the last step, without a choice among checkpoints. ± is the standard "
        "deviation over seeds. Minutes are the time of all steps of one run. They are left out where other programs "
        f"used the machine. Measured on {'; '.join(kinds)}. `python -m experiments.published run NAME` trains the "
        "networks of an entry, continues an interrupted run, and updates this table.",
    ]
    return "\n".join([*HEAD, *rows, "", *notes]) if rows else "No recipe was run to its end."


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
