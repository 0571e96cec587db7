"""Supervise several processes on one machine: start them, and restart all of them when one process dies.

The supervisor itself uses no device. The child processes run `jaxcnn train --distributed`, which resumes from the last
checkpoint. When a child process dies, JAX or the supervisor ends the other child processes.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from jaxcnn._parent import end_with_parent
from jaxcnn.errors import RunError

SUPERVISED = "JAXCNN_SUPERVISED"
"""Name of an environment variable of child processes. Its value is the supervisor's command line."""

TRY_AGAIN = 75
"""Exit status (EX_TEMPFAIL in sysexits.h) of a child process after an error that a restart may fix."""

BAD_DEVICE = 71
"""Exit status (EX_OSERR in sysexits.h) of a child process that has stopped because a device computes wrong values."""

POLL_SECONDS = 0.1
GRACE_SECONDS, GRACE_SECONDS_STOPPING = 2.0, 30.0
"""Times in seconds in which the other processes can print errors and end: after a process died, and after a signal."""

STACK_SECONDS, STACK_REQUESTS = 0.5, 6
"""Seconds to wait after a request to print the Python stack of a process, and number of such requests."""

LONGEST_PAUSE = 30.0
TAIL_LINES = 20


@dataclass(frozen=True)
class Launch:
    """The command and the options of the processes to start.

    Attributes:
      command: command line of each process. The supervisor appends the coordinator's address and the process index.
      processes: number of processes.
      checkpoints: folder that contains the checkpoints of the run. A new checkpoint shows that the run makes progress.
      devices_per_process: number of CPU devices to create, or of GPUs to assign, for each process. None assigns one
        GPU, and does not change the number of CPU devices.
      max_restarts: largest number of restarts without a new checkpoint.
      name: the command line that the user has typed.
    """

    command: Sequence[str]
    processes: int
    checkpoints: Path
    devices_per_process: int | None = None
    max_restarts: int = 3
    name: str = ""


@dataclass
class Children:
    """The running child processes. The output of the first process is shown; other processes write to log files."""

    launch: Launch
    logs: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> "Children":
        port = free_port()
        for index in range(self.launch.processes):
            who = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", f"{self.launch.processes}"]
            with contextlib.ExitStack() as files:
                log = None if index == 0 else files.enter_context(self.log(index).open("wb"))
                child = start_child(
                    [*self.launch.command, *who, "--process-id", f"{index}"],
                    {SUPERVISED: self.launch.name, **_devices(index, self.launch.devices_per_process)},
                    log,
                )
            self.running.append(child)
        return self

    def __exit__(self, *_: object) -> None:
        end_children(self.running)

    def log(self, index: int) -> Path:
        return self.logs / f"process-{index}.log"

    def statuses(self) -> list[int | None]:
        """Return the exit status of each process: None while the process is running, -N if signal N has ended it."""
        return [child.poll() for child in self.running]

    def send(self, number: int) -> None:
        for child in self.running:
            if child.poll() is None:
                child.send_signal(number)


def start_child(command: Sequence[str], env: Mapping[str, str], log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start a child process that can detect the end of this process; see `watch_supervisor`.

    Args:
      command: command line of the child process.
      env: environment variables to add.
      log: file for the output of the child process, or None to write to this process's standard output and error.
    """
    return subprocess.Popen(
        command,
        env=os.environ | env,
        # Nothing is written to this pipe. When the supervisor ends, the pipe closes, and the child ends too.
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Put the child process into a new session, so that Ctrl-C reaches only the supervisor, which forwards the
        # signal.
        start_new_session=True,
    )


def end_children(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill the child processes that are still running, and wait for their end."""
    for child in children:
        child.kill()  # SIGKILL also ends a process that SIGSTOP has paused
    for child in children:
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


class Restarts:
    """Count the restarts without a new checkpoint.

    Args:
      checkpoints: folder that contains the checkpoints of the run.
      most: largest number of restarts without a new checkpoint.
    """

    def __init__(self, checkpoints: Path, most: int):
        self._checkpoints, self._most = checkpoints, most
        self._count, self._reached = 0, _newest_checkpoint(checkpoints)

    def another(self, cause: str) -> tuple[float, str]:
        """Count a restart. Return the seconds to wait before the restart, and a text that describes the restart.

        Args:
          cause: text that says why the restart is necessary.

        Raises:
          RunError: if there were too many restarts without a new checkpoint.
        """
        newest = _newest_checkpoint(self._checkpoints)
        self._count, self._reached = (1 if newest != self._reached else self._count + 1), newest
        where = f"the checkpoint of step {newest}" if newest is not None else "the beginning"
        if self._count > self._most:
            raise RunError(f"{cause}; started {self._most + 1} times without progress beyond {where}: giving up")
        pause = min(2.0 ** (self._count - 1), LONGEST_PAUSE)
        return pause, f"{where} in {pause:g} s (restart {self._count} of {self._most})"


def supervise(launch: Launch) -> int:
    """Run the processes until they end, and return the exit status of the job.

    When a process dies, the supervisor ends all processes and restarts them from the last checkpoint. After an error
    that a restart cannot fix, such as an invalid configuration or a loss that is not finite, the supervisor does not
    restart the processes. SIGTERM and SIGINT are forwarded to the processes. A second signal ends all processes at
    once.

    Raises:
      RunError: if the processes were restarted `max_restarts` times without a new checkpoint.
    """
    restarts = Restarts(launch.checkpoints, launch.max_restarts)
    with tempfile.TemporaryDirectory(prefix="jaxcnn-") as logs, Signals() as signals:
        while True:
            with Children(launch, Path(logs)) as children:
                statuses = _wait(children, signals)
                final = final_status(statuses)
                if final is None and signals.received is not None:
                    return 128 + signals.received
                if final is not None:
                    if final and statuses[0] != final:
                        tell(_last_words(children, statuses.index(final)))
                    return final
                cause = _cause(children, statuses)
            pause, where = restarts.another(cause)
            tell(f"{cause}; all {launch.processes} start again from {where}")
            signals.sleep(pause)
            if signals.received is not None:
                return 128 + signals.received


def watch_supervisor() -> None:
    """End this process when its supervisor ends, and print the Python stack when the supervisor sends SIGUSR1.

    If this process has no supervisor, do nothing.
    """
    if command_of_supervisor() is None:
        return
    end_with_parent()
    faulthandler.register(signal.SIGUSR1, all_threads=False)

    def watch() -> None:
        # Only the main thread must print its stack. When a paused process continues, any thread may get the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def command_of_supervisor() -> str | None:
    """Return the command line of this process's supervisor, or None if this process has no supervisor."""
    return os.environ.get(SUPERVISED)


def failure_status() -> int:
    """Return the exit status for an unexpected error: `TRY_AGAIN` if this process has a supervisor, else 1."""
    return 1 if command_of_supervisor() is None else TRY_AGAIN


def _wait(children: Children, signals: "Signals") -> list[int | None]:
    """Wait until all processes have ended. If one process dies, give the other processes some time to print errors."""
    sent, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        statuses = children.statuses()
        if None not in statuses:
            return statuses
        if any(statuses):  # a process has failed: its status is neither None nor 0
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


def final_status(statuses: Sequence[int | None]) -> int | None:
    """Return the exit status of the job, or None if a restart may help."""
    if all(status == 0 for status in statuses):
        return 0
    return next((status for status in (2, BAD_DEVICE, 1) if status in statuses), None)


def _cause(children: Children, statuses: Sequence[int | None]) -> str:
    """Return a text that names the process that died first, and how it died, such as "process 1 was ended by SIGKILL".

    If a process was killed, other processes may die from the lost connection. The text names the killed process.
    """
    ended = [index for index, status in enumerate(statuses) if status]
    silent = [index for index, status in enumerate(statuses) if status is None]
    if silent and all(statuses[index] == -signal.SIGABRT for index in ended):
        # JAX has ended the other processes, because the process `silent[0]` sent no heartbeat.
        return _of_silent(children, silent[0])
    index = first_to_fail({index: statuses[index] for index in ended})
    status = statuses[index]
    assert status is not None
    words = _last_words(children, index) if index and _is_consequence(status) else ""
    return f"process {index} {how_it_ended(status)}" + (f" ({words})" if words else "")


def first_to_fail(statuses: Mapping[int, int | None]) -> int:
    """Return the index of the process that has probably failed first.

    Args:
      statuses: exit status of each failed process, by process index.
    """
    return min(statuses, key=lambda index: (_is_consequence(statuses[index]), index))


def how_it_ended(status: int) -> str:
    """Return a text for an exit status: "ended with status 1", or "was ended by SIGKILL" if the status is negative."""
    if status >= 0:
        return f"ended with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    return f"was ended by {name}"


def _of_silent(children: Children, index: int) -> str:
    """Return a text about a process that does not answer: whether the process is paused, and its Python stack."""
    child = children.running[index]
    stopped = " (it is stopped, as by SIGSTOP)" if _is_stopped(child.pid) else ""
    child.send_signal(signal.SIGCONT)
    # The signal is sent several times: when the process continues, a thread without a Python stack may receive the
    # signal.
    for _ in range(1 if index == 0 else STACK_REQUESTS):
        before = _last_words(children, index)
        child.send_signal(signal.SIGUSR1)
        time.sleep(STACK_SECONDS)
        if _last_words(children, index) != before:
            break
    words = _last_words(children, index)
    return f"process {index} does not answer{stopped}" + (f": {words}" if words else "")


def _is_stopped(pid: int) -> bool:
    """Return whether a process is paused by a signal such as SIGSTOP. Return False if this is unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _is_consequence(status: int | None) -> bool:
    """Return whether a process may have ended because another process died: it has exited, or JAX has aborted it."""
    return status is None or status >= 0 or status == -signal.SIGABRT


def _last_words(children: Children, index: int) -> str:
    """Return the last lines of a process's log file. Return "" for the first process, whose output is shown."""
    if index == 0:
        return ""
    lines = children.log(index).read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _newest_checkpoint(folder: Path) -> int | None:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isascii() and name.isdecimal()), default=None)


def _devices(index: int, devices: int | None) -> dict[str, str]:
    """Return environment variables that set the number of CPU devices of a child process, or select its GPUs."""
    first, count = index * (devices or 1), devices or 1
    gpus = ",".join(map(str, range(first, first + count)))
    cpus = {} if devices is None else {"JAX_NUM_CPU_DEVICES": str(devices)}
    return {"JAX_CUDA_VISIBLE_DEVICES": gpus, "JAX_ROCM_VISIBLE_DEVICES": gpus, **cpus}


def free_port() -> int:
    """Return the number of a free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def tell(message: str) -> None:
    """Print a message to standard error. Print nothing if the message is empty."""
    if message:
        print(f"jaxcnn: {message}", file=sys.stderr, flush=True)


class Signals:
    """Context in which SIGTERM and SIGINT are only counted. On exit, the previous signal handlers are restored."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.count = 0

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, or until a signal arrives."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.received is None:
            time.sleep(POLL_SECONDS)

    def _numbers(self) -> Iterator[int]:
        # Python handles signals in its main thread only.
        if threading.current_thread() is threading.main_thread():
            yield from (signal.SIGTERM, signal.SIGINT)

    def _handle(self, number: int, _: object) -> None:
        self.received, self.count = number, self.count + 1
