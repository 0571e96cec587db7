"""Runs that are killed, stopped and continued, and what is left of them."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"

# 100 images in batches of 16: an epoch ends in the middle of a batch; 4 of 26 steps end one.
STEPS = 26
ARGS = [
    *("train", "--model", "tiny", "--dataset", "tiny", "--batch-size", "16", "--steps", str(STEPS)),
    *("--checkpoint-every", "2", "--log-every", "3", "--augment", "flip", "--ema-decay", "0.9", "--no-progress"),
    *("--optimizer.name", "adam", "--optimizer.learning-rate", "0.01"),
]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
      status: its exit status, negative for the signal that killed it.
      events: what it was doing, in order; the last is what it was doing when it ended.
      states: hashes of the states that it has ended in.
      errors: what it wrote to standard error.
      steps: for each step that was compared, its number and what was found; see `live.steps`.
      usage: for each evaluation, what the process has in use; see `live.disturbances`.
    """

    status: int
    events: list[str]
    states: list[str]
    errors: str
    steps: list[tuple[int, dict[str, Any]]] = dataclasses.field(default_factory=list)
    usage: list[dict[str, int]] = dataclasses.field(default_factory=list)


class Worker:
    """A process that starts runs; see `worker.py`.

    Attributes:
      pid: the id of the latest run's process.
    """

    def __init__(self, cache: Path):
        self.pid = 0
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={
                **os.environ,
                "PYTHONPATH": str(WORKER.parents[2]),
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
        )
        self._errors = cache.with_suffix(".errors")
        assert self._next() == ["ready"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(
        self,
        workdir: Path,
        *more: str,
        args: list[str] = ARGS,
        send: int = signal.SIGKILL,
        at_event: int | None = None,
        event: str | None = None,
        delay: float = 0.0,
        **job: Any,
    ) -> Ended:
        """Runs the command line until it ends, sending it a signal `delay` seconds after event number `at_event`.

        With `event`, only events of this name count.
        """
        job |= {"args": [*args, "--workdir", str(workdir), *more], "errors": str(self._errors)}
        print(json.dumps(job), file=self._process.stdin)
        pid, events, states, steps, usage = 0, [], [], [], []
        while True:
            word, *rest = self._next()
            if word == "pid":
                pid = self.pid = int(rest[0])
            elif word == "event":
                events.append(" ".join(rest))
            elif word == "state":
                states += rest
            elif word == "step":
                steps.append((int(rest[0]), json.loads(" ".join(rest[1:]))))
            elif word == "usage":
                usage.append(json.loads(" ".join(rest)))
            elif word == "exit":
                return Ended(int(rest[0]), events, states, self._errors.read_text(), steps, usage)
            # The first event may be told before the process's number is.
            counted = [name for name in events if event in (None, name)]
            if pid and at_event is not None and len(counted) > at_event:
                time.sleep(delay)
                os.kill(pid, send)
                at_event = None

    def _next(self) -> list[str]:
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the worker is gone")
        return line.split()


def complete_checkpoints(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def where_it_fell(workdir: Path, ended: Ended) -> str:
    """What a killed process was doing."""
    folder = workdir / "checkpoints"
    half = folder.is_dir() and any("orbax-checkpoint-tmp" in path.name for path in folder.iterdir())
    return f"{ended.events[-1] if ended.events else 'starting'}{', a save half-written' if half else ''}"


def outcome(workdir: Path) -> dict[str, Any]:
    """All that a finished run has left, without times."""
    result = json.loads((workdir / "result.json").read_text())
    for name in ("sha256", "seconds", "first_batch_seconds", "compile_seconds", "images_per_second", "data_wait"):
        del result[name]
    return {
        "result": result,
        "metrics": (workdir / "metrics.jsonl").read_text(),
        "checkpoints": complete_checkpoints(workdir),
        "others": sorted({path.name.split(".out.")[0] for path in workdir.iterdir()}),
    }


@dataclasses.dataclass
class Campaign:
    """Runs that are killed again and again until they come to their end, each compared with a straight one.

    Attributes:
      kills: where each kill fell, and the newest complete checkpoint at that moment.
      differences: what differs from the straight run, to the last bit; lost steps, folders that cannot be read.
    """

    worker: Worker
    folder: Path
    seed: int
    kills: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    differences: list[str] = dataclasses.field(default_factory=list)
    runs: int = 0

    def straight(self) -> None:
        """The run that nobody disturbs; also fills the cache of compiled programs."""
        self.workdir = self.folder / "straight"
        first = self.worker.run(self.workdir)
        assert first.status == 0, first.errors
        (self.state,) = first.states
        self.events = len(first.events)
        self.expected = outcome(self.workdir)
        assert self._saved_state(self.workdir) == self.state

    def kill_until_done(self, most: int) -> None:
        """One run, killed up to `most` times at random moments, then left to end, and compared."""
        chance = random.Random(f"{self.seed} {self.runs}")
        workdir = self.folder / f"run{self.runs}"
        number, self.runs = self.runs, self.runs + 1
        for _ in range(most):
            before = complete_checkpoints(workdir)
            ended = self.worker.run(
                workdir,
                at_event=chance.randrange(self.events // 2),
                delay=chance.uniform(0, 0.06),
                slow=chance.choice([0.0, 0.02]),
                slow_step=chance.choice([0.0, 0.03]),
            )
            if ended.status == 0:
                break  # it came to its end before the signal came
            if ended.status != -signal.SIGKILL:
                self.differences.append(f"run {number}: status {ended.status}: {ended.errors.strip()}")
                return
            newest = max(complete_checkpoints(workdir), default=None)
            if before and (newest is None or newest < before[-1]):
                self.differences.append(f"run {number}: step {before[-1]} was lost, {newest} is left")
            fell = where_it_fell(workdir, ended)
            self.kills.append({"run": number, "fell": fell, "newest_checkpoint": newest})
        ended = self.worker.run(workdir)
        if ended.status or ended.errors:
            self.differences.append(f"run {number}: status {ended.status}: {ended.errors.strip()}")
            return
        if ended.states != [self.state] or self._saved_state(workdir) != self.state:
            self.differences.append(f"run {number}: another state")
        left = outcome(workdir)
        self.differences += [f"run {number}: other {name}" for name in left if left[name] != self.expected[name]]

    def _saved_state(self, workdir: Path) -> str | None:
        """The state of a finished run, read from its checkpoint."""
        ended = self.worker.run(workdir)
        return ended.states[0] if ended.states else None
