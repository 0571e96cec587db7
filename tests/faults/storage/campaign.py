"""Trials of storage that fails: what a run does meanwhile, what is read then, and what the same command ends in."""

import collections
import contextlib
import dataclasses
import errno
import functools
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killing import Ended, outcome
from live.trials import options, run_trials, save_report, versions

from jaxcnn.errors import UsageError
from jaxcnn.train import check_run
from storage import exports
from storage.bench import Bench
from storage.faults import FAULTS, NotHere

KINDS = (*FAULTS, *exports.COMMANDS, "failing_call", "failing_call")
"""The faults, in turns. There are more ways for a call to fail than for all else."""

READS_WRONG = ("lying_disk", "unreadable")
"""Faults after which a run may say which files are damaged, and resume from an earlier checkpoint."""


@dataclasses.dataclass
class Trial:
    """One fault.

    Attributes:
      seed, number, fault: which one.
      detail: what was injected.
      outcome: what the disturbed process did: "one line", "went on", "killed", "not here".
      line: what it said.
      reached: whether a call failed or was spoilt, for faults of calls.
      resumed: what the same command said then.
      failures: what was wrong.
    """

    seed: int
    number: int
    fault: str
    detail: str = ""
    outcome: str = ""
    line: str = ""
    reached: bool | None = None
    resumed: str = ""
    failures: list[str] = dataclasses.field(default_factory=list)


def run_trial(bench: Bench, seed: int, number: int) -> Trial:
    """Inject a fault, and judge what the run does, what it leaves, and what the same command makes of that."""
    chance = random.Random(f"storage {seed} {number}")
    trial = Trial(seed, number, KINDS[number % len(KINDS)])
    note: list[str] = []
    try:
        if trial.fault in FAULTS:
            with FAULTS[trial.fault](bench, chance, note) as (run, ended):
                _judge(bench, trial, run, ended)
        else:
            ended, reached, failures = exports.run(bench, trial.fault, chance, note)
            _note_end(bench, trial, ended)
            trial.reached = reached
            trial.failures += failures
    except NotHere as error:
        trial.outcome = "not here"
        note.append(f"{error} is not allowed")
    bench.shim.reset()
    trial.detail = note[0] if note else ""
    trial.failures += [text for text in note if text.startswith("FAILED")]
    for name in ("run", "moved", "original", "disk", "place", "out"):
        path = bench.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return trial


def _note_end(bench: Bench, trial: Trial, ended: Ended) -> None:
    """Note how the disturbed process ended: in one line, or not at all."""
    trial.reached = bench.shim.hits > 0 if trial.fault in ("failing_call", "lying_disk", "unreadable") else None
    trial.line = ended.errors.strip().replace(str(bench.folder), "")[:500]
    lines = ended.errors.strip().splitlines()
    if ended.status in (1, 2):
        trial.outcome = "one line"
        # A run that goes back to an earlier checkpoint says so first.
        if not lines or not lines[-1].startswith("jaxcnn: ") or (len(lines) > 1 and trial.fault not in READS_WRONG):
            trial.failures.append(f"status {ended.status}, but not in one line: {ended.errors.strip()[-1500:]}")
    else:
        trial.outcome = {0: "went on", -9: "killed"}.get(ended.status, f"status {ended.status}")
        if ended.status not in (0, -9):
            trial.failures.append(f"status {ended.status}: {ended.errors.strip()[-1500:]}")
    if any(word in ended.errors for word in ("Traceback", "Exception ignored", "Event loop")):
        trial.failures.append(f"a traceback: {ended.errors.strip()[-1500:]}")


def _judge(bench: Bench, trial: Trial, run: Path, ended: Ended) -> None:
    _note_end(bench, trial, ended)
    bench.shim.reset()
    spoilt = trial.fault == "lying_disk"
    damaged = _damaged(run)
    if damaged and not spoilt:
        trial.failures.append(f"half-written: {damaged}")
    if trial.outcome == "one line" and trial.fault in ("slow_disk", "clock_steps"):
        trial.failures.append("it should have gone on")
    resumed = bench.worker.run(run)
    trial.resumed = resumed.errors.strip().replace(str(bench.folder), "")[:500]
    lines = trial.resumed.splitlines()
    if resumed.status and spoilt and resumed.status == 2 and len(lines) == 1 and "damaged" in lines[0]:
        return  # a file without which the run cannot go on; the line names it
    if resumed.status or (lines and trial.fault not in READS_WRONG):
        trial.failures.append(f"the same command ended with {resumed.status}: {resumed.errors.strip()[-1500:]}")
        return
    if resumed.states != [bench.state]:
        trial.failures.append("the same command ended in another state")
    left = outcome(run)
    for name, expected in bench.expected.items():
        if left[name] != expected and not _is_explained(bench, trial, name, left[name], damaged):
            trial.failures.append(f"other {name}: {str(left[name])[:300]}")
    again = _damaged(run)
    if again and not spoilt:
        trial.failures.append(f"damaged at the end: {again}")


def _is_explained(bench: Bench, trial: Trial, name: str, found: Any, damaged: list[str]) -> bool:
    """Return whether what a run has left may differ from what the undisturbed one has, in what it says itself."""
    if name == "others":
        return {*found} - {"damaged_checkpoints", "ballast"} == {*bench.expected[name]}
    if trial.fault not in READS_WRONG:
        return False
    if name in ("metrics", "result"):  # rows that are lost have no metrics, which a warning says
        return "metrics.jsonl lacks" in trial.resumed or "metrics.jsonl" in str(damaged)
    return name == "checkpoints" and "going back" in trial.resumed


def _damaged(run: Path) -> list[str]:
    """Return which files `check` calls damaged, except for events whose end is missing: nobody takes them for sound."""
    if not run.exists():
        return []
    try:
        found = [finding for finding in check_run(run) if finding.status == "damaged"]
    except UsageError:  # no run yet
        return []
    torn = [finding for finding in found if finding.file.startswith("events.") and "ends within" in finding.detail]
    torn += [finding for finding in found if finding.file.startswith("events.") and finding.detail == "empty"]
    return [f"{finding.file}: {finding.detail}" for finding in found if finding not in torn]


def report_of(trials: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the counts of trials, and every failure with the number that repeats it."""
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    errors: collections.Counter[str] = collections.Counter()
    for trial in trials:
        missed = trial["reached"] is False
        outcomes[trial["fault"]]["not reached" if missed else trial["outcome"]] += 1
        errors.update(
            name for name in errno.errorcode.values() if f"{name}" in trial["detail"].replace(",", "").split()
        )
    return {
        "command": f"python tests/faults/campaign.py storage --seed {seed} --count {len(trials)}",
        "trials": len(trials),
        "outcomes": {name: dict(outcomes[name].most_common()) for name in dict.fromkeys(KINDS) if name in outcomes},
        "errors": dict(errors.most_common()),
        "failures": [trial for trial in trials if trial["failures"]],
        "versions": versions(),
    }


@contextlib.contextmanager
def bench_in(folder: Path):
    """Give a bench with the undisturbed run."""
    with contextlib.ExitStack() as held:
        bench = Bench(folder, held)
        bench.prepare()
        yield bench


def main(words: list[str]) -> int:
    """Run the campaign; the same command goes on where it was stopped."""
    flags = options("storage", words, 160, "faults")
    with contextlib.ExitStack() as held:

        @functools.cache
        def bench() -> Bench:
            return held.enter_context(bench_in(Path(held.enter_context(tempfile.TemporaryDirectory()))))

        trials = run_trials(flags, lambda seed, number: dataclasses.asdict(run_trial(bench(), seed, number)))
    return save_report(flags.report, report_of(trials, flags.seed))
