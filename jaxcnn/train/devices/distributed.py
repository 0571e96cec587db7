"""Connect several processes, on one machine or on several machines, and exchange values between them.

All processes run the same training loop and make the same steps, each with its own part of every batch. Only the first
process reads and writes the run directory. The first process sends values from the directory to the other processes.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.devices import waits
from jaxcnn.train.devices.rendezvous import is_loopback

T = TypeVar("T")

HEARTBEAT_SECONDS = 30
"""Default timeout in seconds: if a process sends no heartbeat for this time, JAX ends all processes."""


class DisagreementError(RunError):
    """Raised when a value that must be equal in all processes, such as the training state, differs."""


class PortError(UsageError):
    """Raised in the first process when the port of `--coordinator` is in use."""


class Ignored:
    """An object that ignores all method calls. It replaces `Record` and `Checkpoints` in all but the first process."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def check_flags(coordinator: str | None, num_processes: int | None, process_id: int | None, heartbeat: int) -> None:
    """Raise `UsageError` if a flag of a multi-process job has an invalid value, or if a required flag is missing."""
    given = (coordinator, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise UsageError(
            "--coordinator, --num-processes and --process-id must be given together. Give all three flags, or omit all."
        )
    if coordinator is not None and not _is_address(coordinator):
        raise UsageError(f"--coordinator must be HOST:PORT of the first process, got {coordinator!r}")
    if num_processes is not None and num_processes < 1:
        raise UsageError(f"--num-processes must be at least 1, got {num_processes}")
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id must be from 0 to {num_processes - 1}, got {process_id}")
    if heartbeat < 1:
        raise UsageError(f"--heartbeat must be at least 1 second, got {heartbeat}")


def _is_address(text: str) -> bool:
    match = re.fullmatch(r"(\S+):(\d{1,5})", text)
    return match is not None and 0 < int(match.group(2)) < 2**16


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat: int = HEARTBEAT_SECONDS,
) -> None:
    """Join a multi-process job. Call this function before any other use of JAX.

    If `coordinator`, `num_processes` and `process_id` are None, JAX detects a SLURM, Open MPI or TPU pod job.

    The function does not change the handler of SIGTERM. During `fit`, SIGTERM saves the state and stops the run. Before
    `fit`, SIGTERM ends the process. If your program has its own training loop, call `jax.distributed.initialize`
    instead, which also supports `multihost_utils.reached_preemption_sync_point`.

    Args:
      coordinator: address "HOST:PORT" of the first process. If the host is a loopback address, the first process
        listens only at this address. Otherwise, the first process listens at all addresses of its machine.
      num_processes: number of processes.
      process_id: index of this process, from 0.
      heartbeat: timeout in seconds. A process that sends no heartbeat for this time counts as dead.

    Raises:
      UsageError: if a value is not valid, or if no value is given and JAX detects no cluster.
      PortError: in the first process, if the port of `coordinator` is in use.
    """
    check_flags(coordinator, num_processes, process_id, heartbeat)
    handler = signal.getsignal(signal.SIGTERM)
    if coordinator is not None and process_id == 0:
        _check_port(coordinator)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            coordinator_bind_address=_address_to_listen_at(coordinator),
            heartbeat_timeout_seconds=heartbeat,
            # At its end, a process waits at most this long for the other processes. JAX's default is five minutes.
            shutdown_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        raise UsageError(
            "no cluster was detected (SLURM, Open MPI, TPU pod). Give --coordinator HOST:PORT, --num-processes N and "
            "--process-id I."
        ) from error
    if handler is not None and threading.current_thread() is threading.main_thread():
        # JAX has installed a handler that only records the first SIGTERM. With this handler, SIGTERM would not end a
        # process that is still preparing its data.
        signal.signal(signal.SIGTERM, handler)


def _address_to_listen_at(coordinator: str | None) -> str | None:
    """Return the address at which the first process listens, or None to listen at all addresses of the machine.

    If all processes run on one machine, the address is a loopback address, which other machines cannot reach. This is
    safer: any program that can connect to the coordinator can join the job or end it.
    """
    host, _, _ = (coordinator or "").rpartition(":")
    return coordinator if is_loopback(host) else None


def _check_port(coordinator: str) -> None:
    """Raise `PortError` if the port of the coordinator is in use. JAX itself would only log this error, or crash."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise PortError(
                f"--coordinator {coordinator}: port {port} cannot be used on this machine ({error.strerror}). Choose "
                "another port in all processes, or end the process that uses it."
            ) from error


def leave(status: int) -> NoReturn:
    """End this process at once, without JAX's shutdown, which could wait forever for the other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        # The other processes need the coordinator in this process. Give them time to end with their own error.
        time.sleep(1.0)
    os._exit(status)


def is_first() -> bool:
    """Return whether this is the first process, which reads and writes the run directory and prints."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Exchange JSON values: return the list of the values of all processes. Every process must call this function."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with waits.waiting("a value of each process", others=True):
        lengths = multihost_utils.process_allgather(np.array([text.size], np.int32)).reshape(-1)
        texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - text.size)))
    return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


def anywhere(is_true: bool) -> bool:
    """Return, in all processes, whether `is_true` is True in at least one of them. All processes must call this."""
    return any(gather(is_true))


def together(work: Callable[[], T]) -> T:
    """Call `work` in every process, and return its result. If `work` fails in any process, all raise an error.

    Raises:
      UsageError, RunError: the error that `work` raised in this process. If `work` raised no error in this process, the
        error of the first process in which `work` failed.
    """
    value, mine = None, None
    try:
        value = work()
    except (UsageError, RunError) as error:
        mine = error
    failures = gather(None if mine is None else [isinstance(mine, UsageError), str(mine)])
    if mine is not None:
        raise mine
    for index, failure in enumerate(failures):
        if failure is not None:
            is_usage, message = failure
            raise (UsageError if is_usage else RunError)(f"process {index}: {message}")
    return value  # type: ignore[return-value]


def on_first(work: Callable[[], T]) -> T:
    """Call `work` in the first process only, and return its result in all processes. The result is a JSON value.

    Raises:
      UsageError, RunError: in all processes, if `work` raised this error in the first process.
    """
    value = together(lambda: work() if is_first() else None)
    return gather(value)[0]


def from_first(tree: Any) -> Any:
    """Return the first process's host arrays in all processes. The other processes must pass arrays of equal shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    arrays = [np.ascontiguousarray(leaf).reshape(np.shape(leaf)) for leaf in leaves]
    # The arrays are sent as bytes: JAX broadcasts by adding zeros, which would change -0.0 to 0.0.
    packed = np.concatenate([np.zeros(0, np.uint8), *(array.reshape(-1).view(np.uint8) for array in arrays)])
    with waits.waiting("a state of the first process", others=True):
        received = np.asarray(multihost_utils.broadcast_one_to_all(packed))
    start, unpacked = 0, []
    for array in arrays:
        part = received[start : start + array.nbytes].copy()
        unpacked.append(part.view(array.dtype).reshape(array.shape))
        start += array.nbytes
    return jax.tree.unflatten(treedef, unpacked)


def check_equal(what: str, value: Any) -> None:
    """Raise `DisagreementError` if a JSON value differs between processes. `what` names the value in the error."""
    values = gather(value)
    if any(other != values[0] for other in values):
        raise DisagreementError(f"{what} differs between processes: {values}")


def first_signal(received: int | None) -> int | None:
    """Return, in all processes, the largest signal number that any process has received, or None without a signal."""
    if jax.process_count() == 1:
        return received
    with waits.waiting("the signals of each process", others=True):
        return int(multihost_utils.process_allgather(np.array([received or 0], np.int32)).max()) or None
