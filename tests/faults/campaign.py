"""Campaigns of faults, each with a report. Exit status 1 if there is any failure.

Many SIGKILLs at random moments: `python tests/faults/campaign.py --kills 100 --seed 0`. The report goes to
`tests/faults/campaign.json`. A failure is anything that differs from the run that nobody disturbed.

Damage to the files of a run: `python tests/faults/campaign.py damage --seed 0 --count 1000`. The report goes to
`tests/faults/reports/damage.json`, and a JSON line for each trial to `--lines`; the same command continues there.

Storage that fails: `python tests/faults/campaign.py storage --seed 0 --count 160`, in the same way.
Flipped bits in memory and in computations: `python tests/faults/campaign.py injection --seed 0 --count 1000`, in the
same way. The report goes to `tests/faults/reports/injection.json`.
"""

import argparse
import collections
import importlib
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from killing import Campaign, Worker


def main() -> int:
    if sys.argv[1:2] == ["storage"]:
        return importlib.import_module("storage.campaign").main(sys.argv[2:])
    if sys.argv[1:2] == ["injection"]:
        return importlib.import_module("corruption.campaign").main(sys.argv[2:])
    return damage_campaign(sys.argv[2:]) if sys.argv[1:2] == ["damage"] else kill_campaign(sys.argv[1:])


def kill_campaign(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default: 100)")
    parser.add_argument("--each", type=int, default=5, help="most of them in one run (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args(words)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder, Worker(Path(folder) / "cache") as worker:
        campaign = Campaign(worker, Path(folder), args.seed)
        campaign.straight()
        while len(campaign.kills) < args.kills:
            campaign.kill_until_done(min(args.each, args.kills - len(campaign.kills)))
            print(f"{len(campaign.kills)} kills in {campaign.runs} runs, {len(campaign.differences)} differences")
    fell = collections.Counter(kill["fell"] for kill in campaign.kills)
    report = {
        "command": f"python tests/faults/campaign.py --kills {args.kills} --each {args.each} --seed {args.seed}",
        "kills": len(campaign.kills),
        "runs": campaign.runs,
        "seed": args.seed,
        "differences": campaign.differences,
        "fell": dict(fell.most_common()),
        "seconds": round(time.time() - started),
        "versions": versions(),
        "each_kill": campaign.kills,
    }
    head, each = json.dumps({**report, "each_kill": []}, indent=2), ",\n    ".join(map(json.dumps, campaign.kills))
    args.report.write_text(head.replace('"each_kill": []', f'"each_kill": [\n    {each}\n  ]') + "\n")
    print(f"{args.report}: {len(campaign.kills)} kills, {len(campaign.differences)} differences")
    return 1 if campaign.differences else 0


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")}
    return {"python": platform.python_version(), **packages}


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


if __name__ == "__main__":
    sys.exit(main())
