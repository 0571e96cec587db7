"""Runs that are killed, stopped and continued, and what is left of them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
      pid: the id of the process of the current run, 0 if there is none.
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
        self._process.wait(300)  # a busy machine
        self._process.stdout.close()

    def run(
        self,
        workdir: Path,
        *more: str,
        args: list[str] = ARGS,
        send: int | Callable[[], None] = signal.SIGKILL,
        at_event: int | None = None,
        event: str | None = None,
        delay: float = 0.0,
        **job: Any,
    ) -> Ended:
        """Runs the command line until it ends, sending it a signal `delay` seconds after event number `at_event`.

        With `event`, only events of this name count. Instead of a signal, `send` may be what to call.
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
                self.pid = 0
                return Ended(int(rest[0]), events, states, self._errors.read_text(), steps, usage)
            # The first event may be told before the process's number is.
            counted = [name for name in events if event in (None, name)]
            if pid and at_event is not None and len(counted) > at_event:
                time.sleep(delay)
                send() if callable(send) else os.kill(pid, send)
                at_event = None

    def end(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the process of the current run, if there is one."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

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
