"""The campaign of damage to the files of a run, and its report.

python tests/faults/campaign.py damage --seed 0 --count 1000
"""

import collections
import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Any

import damage
from live.trials import options, run_trials, save_report, versions


def main(words: list[str]) -> int:
    flags = options("damage", words, 1000, "trials")
    with contextlib.ExitStack() as held:

        @functools.cache
        def opened() -> tuple[damage.Runs, Path]:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            held.enter_context(damage.quick_runs())
            runs = damage.Runs(folder / "runs")
            runs.prepare()
            return runs, folder / "damaged"

        def trial(seed: int, number: int) -> dict[str, Any]:
            runs, place = opened()
            return vars(damage.run_trial(runs, seed, number, place))

        trials = run_trials(flags, trial)
    return save_report(flags.report, report_of(trials, flags.seed))


def report_of(trials: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the counts of trials, and every failure with the number that repeats it."""
    files = collections.Counter(_kind_of_file(file) for trial in trials for file in {*trial["files"]})
    outcomes = {
        what: dict(collections.Counter(trial["outcomes"].get(what, "none") for trial in trials).most_common())
        for what in ("check", "load", "fit")
    }
    return {
        "command": f"python tests/faults/campaign.py damage --seed {seed} --count {len(trials)}",
        "trials": len(trials),
        "runs": dict(collections.Counter(trial["kind"] for trial in trials)),
        "damages": dict(collections.Counter(name for trial in trials for name in trial["damages"]).most_common()),
        "files": dict(files.most_common()),
        "outcomes": outcomes,
        "failures": [trial for trial in trials if trial["failures"]],
        "versions": versions(),
    }


def _kind_of_file(file: str) -> str:
    first, _, rest = file.partition("/")
    return f"{first}/N/{rest.partition('/')[2].partition('/')[0]}" if rest else first.partition(".out.")[0]
