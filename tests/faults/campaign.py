"""Campaigns of faults, each with a report. Exit status 1 if there is any failure.

    python tests/faults/campaign.py NAME --seed 0 [--count N] [--minutes M] [--lines FILE] [--report FILE]

A trial is repeated by the seed and its number. Each adds a JSON line to `--lines`, so that the same command continues
there. The report goes to `tests/faults/reports/NAME.json`.
"""

import argparse
import collections
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from live.trials import versions


def main() -> int:
    name, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if name not in CAMPAIGNS:
        sys.exit(f"{__doc__}\nNAME is one of: {', '.join(CAMPAIGNS)}")
    return CAMPAIGNS[name](words)


def of_module(name: str) -> Callable[[list[str]], int]:
    """Return the campaign that is the function `main` of a module, which is imported when it is called."""
    return lambda words: importlib.import_module(name).main(words)


def damage_campaign(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="trials in all (default: 1000)")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time; the same command goes on")
    parser.add_argument("--lines", type=Path, default=Path(tempfile.gettempdir()) / "jaxcnn-damage.jsonl")
    parser.add_argument("--report", type=Path, default=Path(__file__).parent / "reports" / "damage.json")
    args = parser.parse_args(words)
    import damage  # imports JAX

    started = time.monotonic()
    trials = [json.loads(line) for line in args.lines.read_text().splitlines()] if args.lines.exists() else []
    done = {trial["number"] for trial in trials if trial["seed"] == args.seed}
    with tempfile.TemporaryDirectory() as folder, damage.quick_runs(), args.lines.open("a") as lines:
        runs = damage.Runs(Path(folder) / "runs")
        runs.prepare()
        for number in sorted({*range(args.count)} - done):
            if time.monotonic() - started > 60 * args.minutes:
                break
            trial = vars(damage.run_trial(runs, args.seed, number, Path(folder) / "damaged"))
            print(json.dumps(trial), file=lines, flush=True)
            trials.append(trial)
    report = damage_report([trial for trial in trials if trial["seed"] == args.seed], args.seed)
    args.report.parent.mkdir(exist_ok=True)
    args.report.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{args.report}: {report['trials']} trials, {len(report['failures'])} failures")
    return 1 if report["failures"] else 0


def damage_report(trials: list[dict[str, Any]], seed: int) -> dict[str, Any]:
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


CAMPAIGNS: dict[str, Callable[[list[str]], int]] = {
    "damage": damage_campaign,
    "elastic": of_module("live.elastic"),
    "hangs": of_module("live.hangs"),
    "injection": of_module("corruption.campaign"),
    "kills": of_module("live.kills"),
    "soak": of_module("live.soak"),
    "storage": of_module("storage.campaign"),
}

if __name__ == "__main__":
    sys.exit(main())
