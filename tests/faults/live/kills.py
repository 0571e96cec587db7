"""Many SIGKILLs at random moments. A failure is anything in which a run differs from one that nobody disturbed.

    python tests/faults/campaign.py kills --seed 0 --count 300

A trial is one run, which is killed up to five times and then left to end.
"""

import collections
import concurrent.futures
import contextlib
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from killing import Ended, Worker, complete_checkpoints, outcome, where_it_fell

from live.trials import Trial, free_port, options, run_trials, write_report

KINDS = ("one process", "one process, saving", "sharded state", "two processes")
MOST = 5
HEARTBEAT, HEARTBEAT_UNDISTURBED = 20, 300
"""Seconds; a busy machine may not run a process for some time."""

PATIENCE = 300.0
"""Seconds after which the other process of a killed one counts as waiting for ever."""

SHARDED = {"devices": 4, "smallest_divided": 256}


def main(words: list[str]) -> int:
    flags = options("kills", words, 300, "SIGKILLs")
    with tempfile.TemporaryDirectory() as folder, Kills.open(Path(folder)) as kills:
        trials = run_trials(flags, kills.trial, lambda trial: len(trial["kills"]))
    fell = collections.Counter(kill["fell"] for trial in trials for kill in trial["kills"])
    by_kind = collections.Counter(trial["kind"] for trial in trials for _ in trial["kills"])
    counts = {"kills": fell.total(), "kills_by_kind": dict(by_kind), "fell": dict(fell.most_common())}
    return write_report("kills", flags, trials, counts)


@dataclass
class Straight:
    """What a run that nobody disturbs leaves: the state's hash, the number of its events, and `outcome`."""

    state: str
    events: int
    outcome: dict[str, Any]


@dataclass
class Kills:
    """Makes trials: runs of one process by the first worker, and of two by both."""

    workers: tuple[Worker, Worker]
    folder: Path
    straight: dict[str, Straight] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> "Iterator[Kills]":
        with Worker(folder / "cache0") as first, Worker(folder / "cache1") as second:
            yield cls((first, second), folder)

    def trial(self, seed: int, number: int) -> Trial:
        chance = random.Random(f"kills {seed} {number}")
        kind = KINDS[number % len(KINDS)]
        workdir = self.folder / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        straight = self._straight(kind)
        kills, failures = [], []
        for _ in range(MOST):
            before = complete_checkpoints(workdir)
            victim, ends = self._kill(kind, workdir, straight, chance)
            if ends[victim].status == 0:
                break  # the run came to its end before the signal
            if ends[victim].status != -signal.SIGKILL:
                failures.append(_what(ends[victim]))
                break
            newest = max(complete_checkpoints(workdir), default=None)
            if before and (newest is None or newest < before[-1]):
                failures.append(f"step {before[-1]} was lost, {newest} is left")
            kills.append({"fell": where_it_fell(workdir, ends[victim]), "newest_checkpoint": newest})
            failures += [what for what in map(_outlived, ends) if what]
        return {"kind": kind, "kills": kills, "failures": failures or self._differences(kind, workdir, straight)}

    def _straight(self, kind: str) -> Straight:
        if kind not in self.straight:
            workdir = self.folder / f"straight {kind}"
            ends = self._run(kind, workdir)
            assert all(end.status == 0 for end in ends), ends
            self.straight[kind] = Straight(ends[0].states[0], len(ends[0].events), outcome(workdir))
        return self.straight[kind]

    def _differences(self, kind: str, workdir: Path, straight: Straight) -> list[str]:
        """Let a run end, and return in what it differs from one that nobody disturbed."""
        ends = self._run(kind, workdir)
        if any(end.status or end.errors for end in ends):
            return [*map(_what, ends)]
        (saved,) = {*(state for end in self._run(kind, workdir) for state in end.states)}
        states = {state for end in ends for state in end.states}
        found = [] if states == {saved} == {straight.state} else ["another state"]
        left = outcome(workdir)
        return found + [f"other {name}" for name in left if left[name] != straight.outcome[name]]

    def _kill(self, kind: str, workdir: Path, straight: Straight, chance: random.Random) -> tuple[int, list[Ended]]:
        """Kill one process of a run at a random moment. Return its index and how all ended."""
        when: dict[str, Any] = {"at_event": chance.randrange(straight.events // 2), "delay": chance.uniform(0, 0.06)}
        slow, slow_step = chance.choice([0.0, 0.02]), chance.choice([0.0, 0.03])
        if kind == "one process, saving":
            when |= {"at_event": chance.randrange(6), "event": "saving"}
            slow = chance.choice([0.02, 0.05])
        victim = chance.randrange(2) if kind == "two processes" else 0
        return victim, self._run(kind, workdir, victim, slow=slow, slow_step=slow_step, **when)

    def _run(self, kind: str, workdir: Path, victim: int = 0, **job: Any) -> list[Ended]:
        """Run the processes of a run; `job` disturbs the one with the index `victim`."""
        if kind != "two processes":
            sharded = kind == "sharded state"
            more = ["--parallel", "jit", "--shard-state"] if sharded else []
            return [self.workers[0].run(workdir, *more, **(SHARDED if sharded else {}), **job)]
        together = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
        together += ["--heartbeat", str(HEARTBEAT if job else HEARTBEAT_UNDISTURBED)]

        def one(index: int) -> Ended:
            slow = {name: job[name] for name in ("slow", "slow_step") if name in job}
            return self.workers[index].run(
                workdir, *together, "--process-id", str(index), **(job if index == victim else slow)
            )

        def end_all() -> None:
            for worker in self.workers:
                worker.end(signal.SIGTERM)

        timer = threading.Timer(PATIENCE, end_all)
        timer.start()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ends = [*pool.map(one, range(2))]
        timer.cancel()
        return ends


def _outlived(ended: Ended) -> str | None:
    """Return a failure if a process had to be ended, since it waited for a killed one."""
    if ended.status in (-signal.SIGTERM, 143):
        return f"a process waited for a killed one for {PATIENCE:g} s"
    return None


def _what(ended: Ended) -> str:
    return f"status {ended.status}: {ended.errors.strip()}"
