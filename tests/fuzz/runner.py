"""Run cases in a process that stays, and kill it when a case takes too long or too much memory.

Memory, and the time that a busy machine took, are read from Linux's /proc. Elsewhere no memory is measured.
"""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .cases import Case
from .judge import Fault, Outcome, Snapshot, faults_of, snapshot
from .template import MAKERS, NEEDS, TRAINED

ROOT = Path(__file__).parents[2]
JAXCNN = "jaxcnn.cli:main"

SECONDS = 10.0
BYTES = 2 * 1000**3
START_SECONDS = 120.0
# A process whose memory has grown to this, from compiled programs of earlier cases, is replaced after its case.
REPLACE_BYTES = 1_100_000_000
WATCH_SECONDS = 0.02


class Child:
    """A process that runs commands, started when it is first needed."""

    def __init__(self, entry: str, environment: dict[str, str]):
        self._entry, self._environment = entry, environment
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, args: tuple[str, ...], folder: Path, output: Path, seconds: float) -> Outcome:
        """Run a command line in a folder, with its output to files in another."""
        if self._process is None:
            self._start()
        assert self._process is not None
        request = {"args": list(args), "folder": str(folder), "output": str(output)}
        clock = _Clock(self._process.pid)
        self._requests.write(json.dumps(request) + "\n")
        reply, ended, peak = self._wait(clock, seconds)
        outcome = Outcome(
            status=reply.get("status"),
            exception=reply.get("exception"),
            ended=ended,
            stdout=_text(output / "stdout"),
            stderr=_text(output / "stderr"),
            seconds=clock.seconds(),
            peak=max(peak, reply.get("peak", 0)),
        )
        if ended or reply.get("resident", 0) > REPLACE_BYTES:
            self.stop()
        return outcome

    def _start(self) -> None:
        requests, send = os.pipe()
        receive, replies = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py")), str(requests), str(replies), self._entry],
            stdin=subprocess.DEVNULL,
            pass_fds=(requests, replies),
            env=self._environment,
            start_new_session=True,  # so that processes that it starts can be killed with it
        )
        os.close(requests)
        os.close(replies)
        self._requests, self._replies = os.fdopen(send, "w", buffering=1), os.fdopen(receive, "r")
        reply, ended, _ = self._wait(_Clock(self._process.pid), START_SECONDS)
        if ended or "ready" not in reply:
            raise RuntimeError(f"the process did not start: {ended or reply}")

    def _wait(self, clock: "_Clock", seconds: float) -> tuple[dict[str, Any], str, int]:
        """Return the reply, how the process ended instead of replying, and the peak of its memory."""
        assert self._process is not None
        peak = 0
        while True:
            ready, _, _ = select.select([self._replies], [], [], WATCH_SECONDS)
            if ready:
                line = self._replies.readline()
                return (json.loads(line), "", peak) if line else ({}, self._death(), peak)
            peak = max(peak, _resident(self._process.pid))
            if peak > BYTES:
                return {}, f"took more than {BYTES / 1000**3:g} GB", peak
            if clock.seconds() > seconds:
                os.kill(self._process.pid, signal.SIGUSR1)  # makes it write where it is
                time.sleep(0.5)
                return {}, f"took more than {seconds:g} s", peak

    def _death(self) -> str:
        assert self._process is not None
        status = self._process.wait(10)
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def stop(self) -> None:
        """Kill the process and those that it has started. The next command starts another."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._requests.close()
            self._replies.close()
            self._process = None


class _Clock:
    """Wall-clock time, without the time in which a process was ready to run and others had the processors."""

    def __init__(self, process: int):
        self._process = process
        self._waited = self._read()
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Return the time since the clock was made. It never exceeds wall-clock time."""
        return time.monotonic() - self._started - max(0.0, self._read() - self._waited)

    def _read(self) -> float:
        try:
            return int(Path(f"/proc/{self._process}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # the process has ended, or the system does not tell
            return 0.0


class Workplace:
    """A folder in which cases run one after another, each with fresh copies of the files that it names.

    Args:
      scratch: an empty folder.
      entry: the function that runs a command, as MODULE:FUNCTION.
      seconds: time limit of a case.
    """

    def __init__(self, scratch: Path, entry: str = JAXCNN, seconds: float = SECONDS):
        self._template, self._case, self._output = scratch / "template", scratch / "case", scratch / "output"
        self._temporary = scratch / "temporary"
        self.here = self._case / "here"
        self._seconds = seconds
        for folder in (self._template, self._output, self._temporary, scratch / "settings"):
            folder.mkdir(parents=True)
        self._child = Child(entry, self._environment(scratch))

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def _environment(self, scratch: Path) -> dict[str, str]:
        caches = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # of compiled kernels
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(scratch / "cache"))
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA", "PYTEST"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "HOME": str(self._case / "home"),
            "XDG_CACHE_HOME": caches,
            "TMPDIR": str(self._temporary),
            "TFDS_DATA_DIR": str(self._case / "data"),
            "MPLCONFIGDIR": str(scratch / "settings"),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }

    def run(self, case: Case) -> tuple[Outcome, list[Fault]]:
        """Run a case, and return how it ended and what was wrong with that."""
        for item in case.items:
            self._make(item)
        self._clear()
        for item in case.items:
            _copy(self._template / item, self.here / item)
        damage = tuple(damage.inflict(self.here) for damage in case.damage if os.path.lexists(self.here / damage.item))
        before = self._snapshot()
        outcome = self._child.run(case.args, self.here, self._output, self._seconds)
        outcome = dataclasses.replace(outcome, damage=damage)
        return outcome, faults_of(case.args, outcome, before, self._snapshot())

    def restart(self) -> None:
        """Run the next case in a new process."""
        self._child.stop()

    def _snapshot(self) -> Snapshot:
        return {**snapshot(self._case), **{f"temporary/{name}": "" for name in os.listdir(self._temporary)}}

    def _clear(self) -> None:
        shutil.rmtree(self._case, ignore_errors=True)
        for name in ("here", "home", "data"):
            (self._case / name).mkdir(parents=True)

    def _make(self, item: str) -> None:
        """Make an item of the template, if it was not made before."""
        if os.path.lexists(self._template / item):
            return
        if item in MAKERS:
            MAKERS[item](self._template / item)
            return
        args, needed = TRAINED[item], NEEDS.get(item, ())
        for name in needed:
            self._make(name)
        self._clear()
        for name in needed:
            _copy(self._template / name, self.here / name)
        outcome = self._child.run((*args, "--workdir", item), self.here, self._output, START_SECONDS)
        if outcome.status != 0:
            raise RuntimeError(f"{item} of the template was not made: {outcome}")
        shutil.move(self.here / item, self._template / item)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _resident(process: int) -> int:
    """Return the resident memory of a process in bytes, 0 where the system does not tell it."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""
