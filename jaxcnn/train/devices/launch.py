"""Many processes on one machine: started together, watched, and started again together when one dies.

The supervisor itself uses no device. Its children are ordinary `jaxcnn train --distributed`, which find the last
checkpoint on their own; that one of them died, the others learn from JAX, which ends them too, or from the
supervisor, whichever is faster.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxcnn.errors import RunError

SUPERVISED = "JAXCNN_SUPERVISED"
"""The environment variable by which a child knows that it is one; it holds the supervisor's own command."""

TRY_AGAIN = 75
"""Exit status (sysexits.h: EX_TEMPFAIL) of a child that failed for a reason that another start may not have."""

POLL_SECONDS = 0.1
# When one process has ended, the others have so long to end on their own, with what they have to say; and so long
# when they were asked to stop.
GRACE_SECONDS, GRACE_SECONDS_STOPPING = 2.0, 30.0
LONGEST_PAUSE = 30.0
TAIL_LINES = 20


@dataclass(frozen=True)
class Launch:
    """What is started: `processes` times `command`, each with its own index.

    Attributes:
      command: as for `subprocess`; the flags that tell a process who it is are added.
      devices_per_process: CPU devices to make, or GPUs to give; None leaves the CPU devices as they are.
      checkpoints: the run's folder of checkpoints; a new one in it shows that the run makes progress.
      max_restarts: how often all are started again without a new checkpoint in between.
      name: the command with which a person starts all this.
    """

    command: Sequence[str]
    processes: int
    checkpoints: Path
    devices_per_process: int | None = None
    max_restarts: int = 3
    name: str = ""


@dataclass
class Children:
    """The processes of one start. The first one's output is shown, that of the others kept in files."""

    launch: Launch
    logs: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> "Children":
        port = _free_port()
        for index in range(self.launch.processes):
            who = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", f"{self.launch.processes}"]
            with contextlib.ExitStack() as files:
                log = None if index == 0 else files.enter_context(self.log(index).open("wb"))
                child = subprocess.Popen(
                    [*self.launch.command, *who, "--process-id", f"{index}"],
                    env=os.environ | {SUPERVISED: self.launch.name} | _devices(index, self.launch.devices_per_process),
                    # Never written to: it ends when the supervisor does, however it does.
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    # Out of reach of the terminal's Ctrl-C, which the supervisor passes on.
                    start_new_session=True,
                )
            self.running.append(child)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.running:
            child.kill()  # works on a stopped process, too
        for child in self.running:
            child.wait()
            assert child.stdin is not None
            child.stdin.close()

    def log(self, index: int) -> Path:
        return self.logs / f"process-{index}.log"

    def statuses(self) -> list[int | None]:
        """Exit statuses, negative for a signal's number, None while a process is running."""
        return [child.poll() for child in self.running]

    def send(self, number: int) -> None:
        for child in self.running:
            if child.poll() is None:
                child.send_signal(number)


def supervise(launch: Launch) -> int:
    """Runs the processes until they have done their work; returns their exit status.

    When one dies, all are ended and started again, and go on from the last checkpoint. What a process says in full
    knowledge (a mistake in the configuration, a loss that is no longer finite) is final. SIGTERM and SIGINT are
    passed on; a second one ends all processes at once.

    Raises:
      RunError: the processes were started too often without coming any further.
    """
    restarts, reached = 0, _newest_checkpoint(launch.checkpoints)
    with tempfile.TemporaryDirectory(prefix="jaxcnn-") as logs, _Signals() as signals:
        while True:
            with Children(launch, Path(logs)) as children:
                statuses = _wait(children, signals)
                final = _final_status(statuses)
                if final is None and signals.received is not None:
                    return 128 + signals.received
                if final is not None:
                    if final and statuses[0] != final:
                        _tell(_last_words(children, statuses.index(final)))
                    return final
                cause = _cause(children, statuses)
            newest = _newest_checkpoint(launch.checkpoints)
            restarts, reached = (1 if newest != reached else restarts + 1), newest
            where = f"the checkpoint of step {newest}" if newest is not None else "the beginning"
            if restarts > launch.max_restarts:
                raise RunError(
                    f"{cause}; started {launch.max_restarts + 1} times without coming further than {where}: giving up"
                )
            pause = min(2.0 ** (restarts - 1), LONGEST_PAUSE)
            _tell(
                f"{cause}; all {launch.processes} start again from {where} in {pause:g} s "
                f"(restart {restarts} of {launch.max_restarts})"
            )
            signals.sleep(pause)
            if signals.received is not None:
                return 128 + signals.received


def watch_supervisor() -> None:
    """In a child: ends this process when its supervisor is gone. Does nothing without a supervisor."""
    if command_of_supervisor() is None:
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def command_of_supervisor() -> str | None:
    """In a child: the command with which its supervisor was started."""
    return os.environ.get(SUPERVISED)


def failure_status() -> int:
    """The exit status of a process that fails without knowing why: a supervisor tries again."""
    return 1 if command_of_supervisor() is None else TRY_AGAIN


def _wait(children: Children, signals: "_Signals") -> list[int | None]:
    """Waits until all processes are done, or until one has died and the others have had time to say why."""
    sent, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        statuses = children.statuses()
        if None not in statuses:
            return statuses
        if any(statuses):  # neither running nor done with 0
            grace = GRACE_SECONDS if signals.received is None else GRACE_SECONDS_STOPPING
            deadline = min(deadline, time.monotonic() + grace)
        if signals.count > sent:
            sent = signals.count
            if sent > 1:
                return children.statuses()
            assert signals.received is not None
            children.send(signals.received)
        time.sleep(POLL_SECONDS)
    return children.statuses()


def _final_status(statuses: Sequence[int | None]) -> int | None:
    """The exit status of the whole, or None if another start may help."""
    if all(status == 0 for status in statuses):
        return 0
    return next((status for status in (2, 1) if status in statuses), None)


def _cause(children: Children, statuses: Sequence[int | None]) -> str:
    """Which process died, and how; that it was killed is a better reason than that it lost another one."""
    ended = [index for index, status in enumerate(statuses) if status]
    index = min(ended, key=lambda index: (_is_consequence(statuses[index]), index))
    status = statuses[index]
    assert status is not None
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    words = _last_words(children, index) if index and _is_consequence(status) else ""
    return f"process {index} {how}" + (f" ({words})" if words else "")


def _is_consequence(status: int | None) -> bool:
    """Whether a process may have ended because another one did: by its own choice, or by JAX's abort."""
    return status is None or status >= 0 or status == -signal.SIGABRT


def _last_words(children: Children, index: int) -> str:
    """The end of what a process has said that nobody saw."""
    if index == 0:
        return ""
    lines = children.log(index).read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _newest_checkpoint(folder: Path) -> int | None:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _devices(index: int, devices: int | None) -> dict[str, str]:
    """The variables for a child's devices: so many of its own on a CPU, and GPUs that no other child has."""
    first, count = index * (devices or 1), devices or 1
    gpus = ",".join(map(str, range(first, first + count)))
    cpus = {} if devices is None else {"JAX_NUM_CPU_DEVICES": str(devices)}
    return {"JAX_CUDA_VISIBLE_DEVICES": gpus, "JAX_ROCM_VISIBLE_DEVICES": gpus, **cpus}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _tell(message: str) -> None:
    if message:
        print(f"jaxcnn: {message}", file=sys.stderr, flush=True)


class _Signals:
    """While it is entered, SIGTERM and SIGINT are only counted."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.count = 0

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sleep(self, seconds: float) -> None:
        """Sleeps, but not past a signal."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.received is None:
            time.sleep(POLL_SECONDS)

    def _numbers(self) -> Iterator[int]:
        # Signals are Python's to handle in its main thread alone.
        if threading.current_thread() is threading.main_thread():
            yield from (signal.SIGTERM, signal.SIGINT)

    def _handle(self, number: int, _: object) -> None:
        self.received, self.count = number, self.count + 1
