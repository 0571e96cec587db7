"""Several processes, on one machine or on many: how they connect and exchange values.

All processes run the same loop on the same steps, each with its own part of every batch. Only the first one reads and
writes the run directory, and it sends what it reads to the others.
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
"""Default number of seconds without a heartbeat of one process after which JAX ends all of them."""


class DisagreementError(RunError):
    """Processes have different states where they must be equal."""


class PortError(UsageError):
    """The first process cannot listen at the port of `--coordinator`."""


class Ignored:
    """A null object: takes the place of what only the first process has (a record, checkpoints), and ignores calls."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def check_flags(coordinator: str | None, num_processes: int | None, process_id: int | None, heartbeat: int) -> None:
    """Raise `UsageError` if an address, process count, index or heartbeat is invalid, or if only some are given."""
    given = (coordinator, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise UsageError("--coordinator, --num-processes and --process-id go together. Give all three, or none.")
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
    """Join a multi-process job. Call it before JAX is used in any other way.

    SIGTERM keeps its handler. `fit` saves and stops after it, and before `fit` it ends the process. For programs with a
    loop of their own, `jax.distributed.initialize` also offers `multihost_utils.reached_preemption_sync_point`.

    Args:
      coordinator: "HOST:PORT" at which the first process listens: at this address only if it is a loopback one, else at
        all addresses of its machine.
      num_processes: number of processes.
      process_id: index of this process, from 0. Without these three, JAX detects SLURM, Open MPI or a TPU pod.
      heartbeat: seconds without a heartbeat after which a process counts as dead.

    Raises:
      UsageError: if a value is invalid, or if none is given and no cluster is detected.
      PortError: in the first process, if its port is in use.
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
            # The longest wait for the others at the end, instead of JAX's five minutes.
            shutdown_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        raise UsageError(
            "no cluster was detected (SLURM, Open MPI, TPU pod). Give --coordinator HOST:PORT, --num-processes N and "
            "--process-id I."
        ) from error
    if handler is not None and threading.current_thread() is threading.main_thread():
        # JAX has installed a handler that only takes note of the first SIGTERM. A process that is asked to stop while
        # it prepares its data would go on.
        signal.signal(signal.SIGTERM, handler)


def _address_to_listen_at(coordinator: str | None) -> str | None:
    """Return the address at which the first process listens, or None for JAX's choice: all addresses of the machine.

    Processes of one machine, which meet at a loopback address, need not be reachable from others: whoever reaches the
    coordinator can join the job or end it.
    """
    host, _, _ = (coordinator or "").rpartition(":")
    return coordinator if is_loopback(host) else None


def _check_port(coordinator: str) -> None:
    """Raise `PortError` if a port of this machine is in use: JAX logs the reason only, or crashes."""
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
    """End this process at once. JAX's own shutdown waits for the others, which may be waiting for this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        # The other processes are connected through this one, and may be about to leave for the same reason.
        time.sleep(1.0)
    os._exit(status)


def is_first() -> bool:
    """Return whether this is the process that reads and writes the run directory, and that prints."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Return the JSON value of each process, in all processes. Every process must call it."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with waits.waiting("a value of each process", others=True):
        lengths = multihost_utils.process_allgather(np.array([text.size], np.int32)).reshape(-1)
        texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - text.size)))
    return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


def anywhere(is_true: bool) -> bool:
    """Return, in all processes, whether something is true in any of them."""
    return any(gather(is_true))


def together(work: Callable[[], T]) -> T:
    """Do the work in every process. If it fails in one process, raise its error in all.

    Raises:
      UsageError, RunError: what the work raised in this process, or else in the first one in which it failed.
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
    """Do the work in the first process only, and return its result, a JSON value, in all processes.

    Raises:
      UsageError, RunError: in all processes, what the work raised in the first one.
    """
    value = together(lambda: work() if is_first() else None)
    return gather(value)[0]


def from_first(tree: Any) -> Any:
    """Return the first process's host arrays in all processes. The others pass arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    arrays = [np.ascontiguousarray(leaf).reshape(np.shape(leaf)) for leaf in leaves]
    # As bytes: JAX broadcasts by adding zeros, which would turn -0.0 into 0.0.
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
    """Raise `DisagreementError` if a JSON value is not the same in all processes."""
    values = gather(value)
    if any(other != values[0] for other in values):
        raise DisagreementError(f"{what} differs between processes: {values}")


def first_signal(received: int | None) -> int | None:
    """Return, in all processes, the largest number of a signal that a process has received, or None."""
    if jax.process_count() == 1:
        return received
    with waits.waiting("the signals of each process", others=True):
        return int(multihost_utils.process_allgather(np.array([received or 0], np.int32)).max()) or None
