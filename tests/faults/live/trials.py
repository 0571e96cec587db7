"""Trials of a campaign: repeated by seed and number, written as they end, so that the same command goes on."""

import argparse
import json
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parents[1] / "reports"

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint")

Trial = dict[str, Any]


def options(name: str, words: list[str], count: int, what: str) -> argparse.Namespace:
    """Return the flags of a campaign: `seed`, `count`, `minutes`, `lines` and `report`."""
    parser = argparse.ArgumentParser(prog=f"python tests/faults/campaign.py {name}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=count, help=f"{what} in all (default: {count})")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time; the same command goes on")
    parser.add_argument("--lines", type=Path, default=Path(tempfile.gettempdir()) / f"jaxcnn-{name}.jsonl")
    parser.add_argument("--report", type=Path, default=REPORTS / f"{name}.json")
    return parser.parse_args(words)


def run_trials(
    flags: argparse.Namespace,
    trial: Callable[[int, int], Trial],
    weight: Callable[[Trial], int] = lambda _: 1,
) -> list[Trial]:
    """Make the trials 0, 1, ... that are not in `flags.lines` yet, until `flags.count` is reached.

    Args:
      flags: those of `options`.
      trial: makes a trial of a seed and a number.
      weight: how many faults of `flags.count` a trial has.

    Returns:
      All trials of this seed, by number.
    """
    started = time.monotonic()
    made = {trial["number"]: trial for trial in _read(flags.lines) if trial["seed"] == flags.seed}
    with flags.lines.open("a") as lines:
        for number in _numbers(flags, made, weight):
            if time.monotonic() - started > 60 * flags.minutes:
                break
            made[number] = {"seed": flags.seed, "number": number, **trial(flags.seed, number)}
            print(json.dumps(made[number]), file=lines, flush=True)
    return [made[number] for number in sorted(made)]


def _numbers(flags: argparse.Namespace, made: dict[int, Trial], weight: Callable[[Trial], int]) -> Iterator[int]:
    number = 0
    while sum(map(weight, made.values())) < flags.count:
        if number not in made:
            yield number
        number += 1


def _read(path: Path) -> list[Trial]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_report(name: str, flags: argparse.Namespace, trials: list[Trial], counts: dict[str, Any]) -> int:
    """Write the report of a campaign. Return the exit status: 1 if any trial has failures."""
    failed = [
        {name: value for name, value in trial.items() if name != "usage"} for trial in trials if trial["failures"]
    ]
    report = {
        "command": f"python tests/faults/campaign.py {name} --seed {flags.seed} --count {flags.count}",
        "trials": len(trials),
        **counts,
        "failures": failed,
        "versions": versions(),
    }
    return save_report(flags.report, report)


def save_report(path: Path, report: dict[str, Any]) -> int:
    """Write a report with `trials` and `failures`. Return the exit status: 1 if there are failures."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{path}: {report['trials']} trials, {len(report['failures'])} with failures")
    return 1 if report["failures"] else 0


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
