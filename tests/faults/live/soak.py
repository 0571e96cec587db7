"""A long run with kills, damage and pressure mixed at random, whose end has the bits of an undisturbed run.

    python tests/faults/campaign.py soak --seed 0

A trial is one start of the run, which ends by a signal or at the last step. The run directory stays beside `--lines`,
so that the same command goes on.
"""

import argparse
import collections
import contextlib
import itertools
import json
import random
import signal
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killing import ARGS, Ended, Worker, complete_checkpoints, outcome

from live.trials import REPORTS, Trial, options, run_trials, write_report

EPOCHS, STEPS_IN_EPOCH = 200, 6.25
DAMAGES = ("flip", "truncate", "remove", "torn line", "none", "none")
PRESSURES: tuple[dict[str, Any], ...] = ({}, {}, {"slow": 0.02}, {"files": 64}, {"slow_step": 0.01})
GROWTH = {"memory": 2**24, "files": 3, "threads": 3, "checkpoints": 2**16}
"""Largest growth between the second and the last quarter of a run: bytes of anonymous memory and of checkpoints, and
numbers of open files and threads."""
RELEASE = 2**26
"""Bytes of memory between two epochs from which on a fall counts as a release; no number of files comes near it."""


def main(words: list[str]) -> int:
    flags = options("soak", words, EPOCHS, "epochs")
    folder = flags.lines.with_suffix(f".{flags.seed}.{flags.count}")
    folder.mkdir(parents=True, exist_ok=True)
    with Soak.open(folder, flags) as soak:
        straight = soak.straight()
        trials = run_trials(flags, soak.trial, lambda trial: flags.count if trial["ended"] else 0)
        differences = soak.differences(straight) if trials and trials[-1]["ended"] else ["the run has not ended yet"]
    trials.append({"seed": flags.seed, "number": -1, "failures": differences + growth(straight["usage"])})
    counts = {
        "epochs": flags.count,
        "starts": len(trials) - 1,
        "signals": _counted(trial.get("signal") for trial in trials),
        "damages": _counted(trial.get("damage") for trial in trials),
        "pressures": _counted(json.dumps(trial["pressure"]) for trial in trials if "pressure" in trial),
        "growth_in_one_process": {name: _rise(straight["usage"], name) for name in GROWTH},
    }
    draw(straight["usage"], [trial["usage"] for trial in trials if trial.get("usage")], flags.report)
    return write_report("soak", flags, trials, counts)


def _counted(names: Iterator[Any]) -> dict[str, int]:
    return dict(collections.Counter(name for name in names if name is not None).most_common())


@dataclass
class Soak:
    """Makes a disturbed run, and the one that nobody disturbs."""

    worker: Worker
    folder: Path
    steps: int

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, flags: argparse.Namespace) -> "Iterator[Soak]":
        with tempfile.TemporaryDirectory() as cache, Worker(Path(cache) / "cache") as worker:
            yield cls(worker, folder, int(flags.count * STEPS_IN_EPOCH))

    def _run(self, name: str, **job: Any) -> Ended:
        workdir = self.folder / name
        args = [*ARGS, "--steps", str(self.steps), "--checkpoint-every", "20"]
        return self.worker.run(workdir, args=args, usage=str(workdir), **job)

    def straight(self) -> dict[str, Any]:
        """Return what the undisturbed run leaves, which is made once: its state, its outcome and its usage."""
        kept = self.folder / "straight.json"
        if not kept.exists():
            ended = self._run("straight")
            assert ended.status == 0, ended.errors
            left = {"state": ended.states[0], "outcome": outcome(self.folder / "straight"), "usage": ended.usage}
            kept.write_text(json.dumps(left))
        return json.loads(kept.read_text())

    def trial(self, seed: int, number: int) -> Trial:
        """Start the run once more, disturb it, and damage a file after its end."""
        chance = random.Random(f"soak {seed} {number}")
        send, pressure = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]), chance.choice(PRESSURES)
        when = {"at_event": chance.randrange(20, 300), "delay": chance.uniform(0, 0.06)}
        ended = self._run("run", send=send, **when, **pressure)
        done = ended.status == 0
        expected = (-signal.SIGKILL, 0) if send == signal.SIGKILL else (143, -signal.SIGTERM, 0)
        return {
            "ended": done,
            "signal": None if done else send.name,
            "pressure": pressure,
            "damage": None if done else damage(self.folder / "run", chance),
            "usage": ended.usage,
            "state": ended.states,
            "failures": [] if ended.status in expected else [f"status {ended.status}: {ended.errors.strip()}"],
        }

    def differences(self, straight: dict[str, Any]) -> list[str]:
        """Return in what the end of the run differs from that of the undisturbed one."""
        again, left = self._run("run"), outcome(self.folder / "run")
        found = [] if again.states == [straight["state"]] else ["another state"]
        # Damaged checkpoints are kept, and the best one may have been among them.
        return found + [f"other {name}" for name in ("result", "metrics") if left[name] != straight["outcome"][name]]


def damage(workdir: Path, chance: random.Random) -> str:
    """Damage the newest of several checkpoints, or end `metrics.jsonl` in the middle of a line. Return how."""
    how, steps = chance.choice(DAMAGES), complete_checkpoints(workdir)
    if how == "torn line" and (workdir / "metrics.jsonl").exists():
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write('{"split": "train", "st')
        return how
    if how not in ("flip", "truncate", "remove") or len(steps) < 2:
        return "none"
    files = sorted(path for path in (workdir / "checkpoints" / str(steps[-1])).rglob("*") if path.is_file())
    path = chance.choice([path for path in files if path.stat().st_size])
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    return how


def growth(usage: list[dict[str, int]]) -> list[str]:
    """Return what grows in a run."""
    return [f"{name} grow by {_rise(usage, name)}" for name, most in GROWTH.items() if _rise(usage, name) > most]


def _rise(usage: list[dict[str, int]], name: str) -> int:
    """Return the difference of the medians of the last and the second quarter.

    Memory that is released at once, such as that of the compiler, does not hide what grows.
    """
    values, quarter = [row[name] for row in usage], len(usage) // 4
    falls = (before - after for before, after in itertools.pairwise(values))
    released = [0, *itertools.accumulate(fall if fall > RELEASE else 0 for fall in falls)]
    values = [value + more for value, more in zip(values, released, strict=True)]
    return round(statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter]))


def draw(straight: list[dict[str, int]], starts: list[list[dict[str, int]]], report: Path) -> None:
    """Draw memory, open files, threads and disk by epoch beside the report."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 5), layout="constrained")
    scales = {"memory": 2**20, "files": 1, "threads": 1, "disk": 2**20}
    titles = {
        "memory": "Anonymous memory (MiB)",
        "files": "Open files",
        "threads": "Threads",
        "disk": "Run directory (MiB)",
    }
    for axes, (name, scale) in zip(figure.subplots(2, 2).flat, scales.items(), strict=True):
        for index, rows in enumerate([straight, *starts]):
            x, y = [row["step"] / STEPS_IN_EPOCH for row in rows], [row[name] / scale for row in rows]
            label = ("undisturbed", "each start of the disturbed run")[index] if index < 2 else None
            axes.plot(x, y, color="tab:blue" if index == 0 else "tab:orange", lw=1, label=label)
        axes.set(title=titles[name], xlabel="epoch")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    picture = (report.parent if report.parent.is_dir() else REPORTS) / f"{report.stem}.png"
    figure.savefig(picture, dpi=70)
