"""Processes that never answer: nobody waits for ever, one line says who waits for what, and the run goes on.

    python tests/faults/campaign.py hangs --seed 0 --count 60

Processes run in a network of their own if root may make one, so that its loopback can be cut.
"""

import collections
import concurrent.futures
import contextlib
import ctypes
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from killing import ARGS, Ended, Worker, outcome

from jaxcnn.train.devices.waits import HUNG
from live.trials import Trial, free_port, options, run_trials, write_report

KINDS = (
    "data of one process",
    "data worker of one process",
    "data of one of two",
    "own work of one of two",
    "one of two stopped",
    "network of two cut",
)
TIMEOUT, HEARTBEAT = 8.0, 12
PATIENCE = 300.0
"""Seconds after which a process counts as waiting for ever, on a machine that does other work."""

CLONE_NEWNET = 0x40000000


def main(words: list[str]) -> int:
    flags = options("hangs", words, 60, "hangs")
    cuts = own_network()
    with tempfile.TemporaryDirectory() as folder, Hangs.open(Path(folder), cuts) as hangs:
        trials = run_trials(flags, hangs.trial)
    counts = {
        "kinds": dict(collections.Counter(trial["kind"] for trial in trials)),
        "ends": {
            kind: dict(collections.Counter(str(trial["ends"]) for trial in trials if trial["kind"] == kind))
            for kind in KINDS
        },
        "longest_seconds": {
            kind: max((trial["seconds"] for trial in trials if trial["kind"] == kind), default=0.0) for kind in KINDS
        },
        "lines": {kind: next((trial["said"] for trial in trials if trial["kind"] == kind), []) for kind in KINDS},
        "hang_timeout": TIMEOUT,
        "heartbeat": HEARTBEAT,
    }
    return write_report("hangs", flags, trials, counts)


def own_network() -> bool:
    """Put this process and its children into a network namespace with a loopback only. Return whether it could."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        return False
    set_loopback("up")
    return True


def set_loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


@dataclass
class Hangs:
    """Makes trials: a run that hangs, and the same command again, whose end is compared.

    Attributes:
      cuts: whether the loopback may be cut.
    """

    workers: tuple[Worker, Worker]
    folder: Path
    cuts: bool
    straight: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, cuts: bool) -> "Iterator[Hangs]":
        with Worker(folder / "cache0") as first, Worker(folder / "cache1") as second:
            yield cls((first, second), folder, cuts)

    def trial(self, seed: int, number: int, kind: str | None = None) -> Trial:
        chance = random.Random(f"hangs {seed} {number}")
        kind = kind or KINDS[number % (len(KINDS) if self.cuts else len(KINDS) - 1)]
        workdir = self.folder / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        processes = 2 if "two" in kind else 1
        expected = self._straight(processes)
        started = time.monotonic()
        ends, late = self._hang(kind, workdir, processes, chance)
        seconds = time.monotonic() - started
        failures = [*late, *_wrong(kind, ends)]
        again = self._run(workdir, processes)
        if [end.status for end in again] != [0] * processes or {end.states[0] for end in again} != {expected[0]}:
            failures.append(f"the run did not go on to the same state: {again}")
        elif outcome(workdir) != expected[1]:
            failures.append("the run left other files")
        said = [line for end in ends for line in end.errors.splitlines() if line.startswith("jaxcnn: ")]
        return {
            "kind": kind,
            "ends": [end.status for end in ends],
            "seconds": round(seconds, 1),
            "said": said,
            "failures": failures,
        }

    def _straight(self, processes: int) -> tuple[str, dict[str, Any]]:
        if processes not in self.straight:
            workdir = self.folder / f"straight{processes}"
            ends = self._run(workdir, processes)
            assert [end.status for end in ends] == [0] * processes, ends
            self.straight[processes] = ends[0].states[0], outcome(workdir)
        return self.straight[processes]

    def _hang(self, kind: str, workdir: Path, processes: int, chance: random.Random) -> tuple[list[Ended], list[str]]:
        """Let a run hang. Return how its processes ended, and a failure if they had to be ended."""
        victim, step, late = chance.randrange(processes), chance.randrange(4, 22), []
        what = {"data of": "data", "data worker": "worker", "own work": "own work"}
        hangs = next((name for start, name in what.items() if kind.startswith(start)), None)
        job: dict[str, Any] = {"hangs": {"what": hangs, "step": step}} if hangs else {}
        with contextlib.ExitStack() as after:
            watch = threading.Timer(PATIENCE, self._end_all, [late])
            after.callback(watch.join)
            after.callback(watch.cancel)
            if kind.startswith("network"):
                job = {"send": lambda: self._cut(after)}
            if "stopped" in kind:
                job = {"send": signal.SIGSTOP}
                after.callback(self._follow(victim).join)
            if hangs is None:
                job |= {"at_event": step, "event": "training", "slow_step": 0.05}
            watch.start()
            ends = self._run(workdir, processes, victim, **job)
        return ends, late

    def _cut(self, after: contextlib.ExitStack) -> None:
        set_loopback("down")
        after.callback(set_loopback, "up")

    def _follow(self, victim: int) -> threading.Thread:
        """End the stopped process once the other has ended, as a scheduler does."""

        def follow() -> None:
            other, seen = self.workers[1 - victim], False
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                if seen and not other.pid:
                    break
                seen = seen or other.pid != 0
                time.sleep(0.1)
            self.workers[victim].end()

        thread = threading.Thread(target=follow)
        thread.start()
        return thread

    def _end_all(self, late: list[str]) -> None:
        late.append(f"a process still waited after {PATIENCE:g} s")
        for worker in self.workers:
            worker.end()

    def _run(self, workdir: Path, processes: int, victim: int = 0, **job: Any) -> list[Ended]:
        flags = ["--hang-timeout", f"{TIMEOUT if job else 300:g}", "--heartbeat", f"{HEARTBEAT if job else 300}"]
        together = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes)]

        def one(index: int) -> Ended:
            more = [*together, "--process-id", str(index)] if processes > 1 else []
            slow = {"slow_step": job["slow_step"]} if "slow_step" in job else {}
            return self.workers[index].run(
                workdir, *flags, *more, args=ARGS, own=True, **(job if index == victim else slow)
            )

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return [*pool.map(one, range(processes))]


def _wrong(kind: str, ends: list[Ended]) -> list[str]:
    """Return what is wrong with how processes ended: nobody was told why, or one ended as if all were well."""
    statuses = [end.status for end in ends]
    said = "\n".join(end.errors for end in ends)
    found = [f"statuses {statuses}: {said}"] if 0 in statuses else []
    if kind.startswith(("data", "own work")):
        who = r"process \d" if "two" in kind else "the run"
        what = "training data" if kind.startswith("data") else "(the devices|a value|the signals)"
        if HUNG not in statuses or not re.search(rf"^jaxcnn: {who} has waited \d+ s for {what}", said, re.MULTILINE):
            found.append(f"no line says who waits: statuses {statuses}: {said}")
        if kind.startswith("data") and "never_answers" not in said and "worker" not in kind:
            found.append(f"the stack does not show what never answers: {said}")
    return found
