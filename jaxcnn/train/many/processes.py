"""Train networks in several worker processes at once. Each process uses its own CPU cores."""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxcnn import startup
from jaxcnn.data import Dataset
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.many._worker import Job
from jaxcnn.train.many.groups import Network
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.checkpoint import RANDOM_NUMBER_OPTIONS
from jaxcnn.train.runtime.signals import StopSignals

BYTES_OF_A_WORKER = 2**30
"""Estimated memory of one worker in bytes, which limits the number of workers."""

POLL_SECONDS = 0.2

WORKER = (sys.executable, "-m", "jaxcnn.train.many._worker")


def available_cores() -> list[int]:
    """Return the ids of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(cores: Sequence[int], networks: int, free_bytes: int) -> list[tuple[int, ...]]:
    """Divide CPU cores among workers, and return the cores of each worker. Each worker gets equally many cores.

    >>> shares([0, 1, 2, 3], networks=2, free_bytes=2**40)
    [(0, 1), (2, 3)]
    >>> shares([0, 1, 2, 3], networks=9, free_bytes=3 * 2**30)
    [(0,), (1,), (2,)]
    """
    workers = max(1, min(len(cores), networks, free_bytes // BYTES_OF_A_WORKER))
    each = len(cores) // workers
    return [tuple(cores[index * each : (index + 1) * each]) for index in range(workers)]


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**40


def pickled_job(
    parts: CustomParts, data: Dataset | None, callbacks: tuple[Any, ...], cores: tuple[int, ...] = ()
) -> bytes:
    """Return the `Job` of a worker as pickled bytes.

    Raises:
      UsageError: if the dataset, a custom part or a callback cannot be pickled.
    """
    job = Job(
        parts=parts,
        data=data,
        callbacks=callbacks,
        cores=cores,
        devices=len(jax.local_devices()),
        options=tuple((name, getattr(jax.config, name)) for name in RANDOM_NUMBER_OPTIONS),
        settles=startup.settled() is not None,
    )
    try:
        sent = pickle.dumps(job)
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UsageError(
            f"a model, task, optimizer, dataset or callback cannot be sent to another process: {reason}. Use "
            "together='turns'."
        ) from error
    if b"__main__" in sent:
        raise UsageError(
            "a model, task, optimizer, dataset or callback is defined in the main program, which other processes do "
            "not import. Define this object in an imported module, or use together='turns'."
        )
    return sent


def train_in_processes(
    networks: Sequence[Network],
    parts: CustomParts,
    data: Dataset | None,
    callbacks: tuple[Any, ...],
    stop: StopSignals,
    report: Callable[[Network, str | None], None],
) -> bool:
    """Train networks in several worker processes. Each worker trains one network at a time.

    Args:
      networks: networks to train.
      parts: custom parts that were passed to `fit_many`, such as a model.
      data: the dataset that was passed to `fit_many`, or None.
      callbacks: the callbacks that were passed to `fit_many`.
      stop: records whether a signal asked to stop. After a signal, the workers save the states of their networks.
      report: function to call with each network that has ended, and with the reason if the network diverged, else None.

    Returns:
      True if all networks have ended, False if a signal has stopped the training.

    Raises:
      UsageError: if a value of a network's configuration is not valid.
      RunError: if a worker fails.
    """
    waiting = list(reversed(networks))
    answers: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    with contextlib.ExitStack() as held:
        workers = []
        for index, cores in enumerate(shares(available_cores(), len(networks), _free_bytes())):
            worker = _Worker(pickled_job(parts, data, callbacks, cores), index, answers)
            held.callback(worker.close)
            workers.append(worker)
        for worker in workers:
            worker.send(waiting.pop())
        busy, told = len(workers), False
        while busy:
            if stop.received is not None and not told:
                told = True
                for worker in workers:
                    worker.stop()
            try:
                index, answer = answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            worker = workers[index]
            network = worker.network
            assert network is not None
            # After a signal, a worker that has not started to train ends without an answer. This is not an error.
            if stop.received is None and "mistake" in answer:
                raise UsageError(answer["mistake"])
            if stop.received is None and "failed" in answer:
                raise RunError(f"{network.name}: {answer['failed']}")
            if "done" in answer or "diverged" in answer:
                report(network, answer.get("diverged"))
            if waiting and stop.received is None:
                worker.send(waiting.pop())
            else:
                busy -= 1
    return stop.received is None


class _Worker:
    """A child process that trains one network at a time.

    Args:
      job: bytes that `pickled_job` has returned.
      index: number of the worker.
      answers: queue to which the worker's number and its message about each network are added.
    """

    def __init__(self, job: bytes, index: int, answers: "queue.SimpleQueue[tuple[int, dict[str, Any]]]"):
        self.network: Network | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  `close` closes it
        self._process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Put the worker into a new session, so that Ctrl-C reaches only the parent, which forwards the signal.
            start_new_session=True,
        )
        self._write(job)
        threading.Thread(target=self._listen, args=(index, answers), daemon=True).start()

    def send(self, network: Network) -> None:
        """Send a network to the worker, which trains it."""
        self.network = network
        self._write(pickle.dumps(network))

    def stop(self) -> None:
        """Ask the worker to save the state of its network."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                assert file is not None
                file.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_listen` reports a worker that has ended
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _listen(self, index: int, answers: "queue.SimpleQueue[tuple[int, dict[str, Any]]]") -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # `close` has closed the pipe
            for line in self._process.stdout:
                answers.put((index, json.loads(line)))
            answers.put((index, {"failed": self._reason()}))

    def _reason(self) -> str:
        """Return one line that says why the worker process has ended."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"its process ended with {how}: {lines[-1][:300] if lines else 'no error output'}"
