"""`jaxcnn train`: train a network."""

import contextlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
from rich.console import Console

from jaxcnn import train
from jaxcnn.cli import Settle, leave_alone, tell
from jaxcnn.cli._recipe import recipe_defaults, values_of
from jaxcnn.cli._training_flags import parse_training
from jaxcnn.errors import RunError, UsageError
from jaxcnn.measure.case import Case
from jaxcnn.train.config import validate
from jaxcnn.train.devices import distributed, launch, machines, waits
from jaxcnn.train.devices.distributed import HEARTBEAT_SECONDS
from jaxcnn.train.runtime import workdir


@dataclass(frozen=True)
class Flags(train.Config):
    """Train a network. Without flags: LeNet-5 on the images inside the package.

    The same command with the same --workdir resumes the run.
    """

    config: str | None = None
    """A Python file that defines `config = jaxcnn.train.Config(...)`. Flags override its values."""
    json: bool = False
    """Print the result as JSON, and all other output to standard error."""
    processes: int | None = None
    """Start this number of processes on this machine. When one dies, restart all from the latest checkpoint."""
    devices_per_process: int | None = None
    """Devices of each of these processes: virtual CPU devices, or GPUs (default: one)."""
    max_restarts: int = 3
    """Give up after this many restarts of supervised processes in a row without progress."""
    distributed: bool = False
    """Join a multi-process job. The cluster (SLURM, Open MPI, TPU pods) is detected unless you give its address."""
    coordinator: str | None = None
    """HOST:PORT of the first process."""
    num_processes: int | None = None
    """Number of processes in the job."""
    process_id: int | None = None
    """Index of this process, from 0."""
    rendezvous_timeout: int | None = None
    """Supervise this process: restart it with those of the other machines that are there within this number of
    seconds. Needs --distributed with an address, and --workdir."""
    heartbeat: int = HEARTBEAT_SECONDS
    """Seconds without a heartbeat after which a process counts as dead."""
    hang_timeout: int = waits.HANG_SECONDS
    """Seconds without data, devices, disk or other processes after which the process ends with status 124; 0: never."""
    xla_preset: str | None = None
    """Preset of XLA's options for GPUs, such as latency-hiding or nhwc (default: JAXCNN_XLA_PRESET, or none)."""


# Limits of the flags that are not fields of `Config`. Each process takes memory and CPU time.
RANGES = {
    "processes": (1, max(16, os.cpu_count() or 1)),
    "devices_per_process": (1, 1024),
    "max_restarts": (0, 10**6),
    "num_processes": (1, 2**20),
    "rendezvous_timeout": (1, 10**6),
    "heartbeat": (1, 10**6),
    "hang_timeout": (0, 10**6),
}

# Flags of the supervisor, which are not passed on to its child processes.
SUPERVISOR_FLAGS = ("--processes", "--devices-per-process", "--max-restarts", "--rendezvous-timeout")
JOB_FLAGS = ("--coordinator", "--num-processes", "--process-id")


def run(args: Sequence[str], settle: Settle = leave_alone) -> int | None:
    """Train; call `settle` with the number of values in a batch of images, if known, before JAX starts."""
    flags = parse_training(Flags, "train", args, recipe_defaults(Flags, args))
    _check(flags)
    settle(_batch_values(flags), flags.xla_preset)
    if flags.processes is not None:
        return _supervise(flags, args)
    if flags.rendezvous_timeout is not None:
        return _supervise_member(flags, args)
    if flags.distributed:
        return _be_one_of_many(flags, args)
    if settle is not leave_alone and flags.hang_timeout:  # the process is this command's own
        waits.end_when_hung(flags.hang_timeout, "the run")
    _fit(flags, args)
    return None


def _batch_values(flags: Flags) -> int | None:
    """Return the number of values in a batch of images, or None if it is not known before the dataset is opened."""
    try:
        # The number of pixels may be approximate: the square of the mean side.
        size = flags.image_size if not isinstance(flags.image_size, tuple) else sum(flags.image_size) // 2
        return Case(flags.model, int(flags.batch_size), image_size=size).batch_values
    except (UsageError, TypeError, ValueError):  # wrong flags are reported where they are used
        return None


def _fit(flags: Flags, args: Sequence[str]) -> None:
    try:
        result = train.fit(train.Config(**values_of(flags)), console=Console(stderr=flags.json))
    except train.InterruptedRunError as stop:
        where = [] if flags.workdir else ["--workdir", str(stop.workdir)]
        stop.how = launch.command_of_supervisor() or shlex.join(["jaxcnn", "train", *args, *where])
        raise
    if flags.json and distributed.is_first():
        print(json.dumps({**result.values, "workdir": str(result.workdir)}, indent=2))


def _supervise(flags: Flags, args: Sequence[str]) -> int:
    """Start and watch the processes. The run directory is chosen here, so that all restarts use the same one."""
    config = train.Config(**values_of(flags))
    validate(config)
    with workdir.reserved(config) as folder:
        where = [] if flags.workdir else ["--workdir", str(folder)]
        rest = _without(args, SUPERVISOR_FLAGS)
        return launch.supervise(
            launch.Launch(
                [sys.executable, "-m", "jaxcnn.cli", "train", *rest, *where, "--distributed"],
                processes=flags.processes or 1,
                checkpoints=folder / workdir.CHECKPOINTS,
                devices_per_process=flags.devices_per_process,
                max_restarts=flags.max_restarts,
                name=shlex.join(["jaxcnn", "train", *args, *where]),
            )
        )


def _supervise_member(flags: Flags, args: Sequence[str]) -> int:
    """Start and watch this machine's process of a job on several machines."""
    config = train.Config(**values_of(flags))
    validate(config)
    assert flags.coordinator is not None
    assert flags.process_id is not None
    assert flags.num_processes is not None
    with workdir.reserved(config) as folder:
        return machines.supervise_member(
            machines.Member(
                [sys.executable, "-m", "jaxcnn.cli", "train", *_without(args, (*SUPERVISOR_FLAGS, *JOB_FLAGS))],
                process=flags.process_id,
                processes=flags.num_processes,
                coordinator=flags.coordinator,
                timeout=flags.rendezvous_timeout or 0,
                checkpoints=folder / workdir.CHECKPOINTS,
                max_restarts=flags.max_restarts,
                name=shlex.join(["jaxcnn", "train", *args]),
            )
        )


def _be_one_of_many(flags: Flags, args: Sequence[str]) -> int | None:
    launch.watch_supervisor()
    try:
        with _kept_standard_output():
            distributed.initialize(flags.coordinator, flags.num_processes, flags.process_id, flags.heartbeat)
            if flags.hang_timeout:
                others = jax.process_count() - 1
                waits.end_when_hung(flags.hang_timeout, f"process {jax.process_index()}", others)
            _fit(flags, args)
    except distributed.PortError as error:
        # No other process is connected yet. A supervisor chooses another port.
        status = tell(error)
        return status if launch.command_of_supervisor() is None else launch.TRY_AGAIN
    except train.CorruptDeviceError as error:
        status = tell(error)
        distributed.leave(launch.failure_status() if error.elsewhere else status)
    except (UsageError, RunError, KeyboardInterrupt) as error:
        distributed.leave(tell(error))
    except jax.errors.JaxRuntimeError as error:
        # Usually another process has died, which JAX reports in many lines.
        print(f"jaxcnn: process {jax.process_index()} stops: {str(error).splitlines()[0]}", file=sys.stderr)
        distributed.leave(launch.failure_status())
    except Exception:
        traceback.print_exc()
        distributed.leave(launch.failure_status())


@contextlib.contextmanager
def _kept_standard_output() -> Iterator[None]:
    """Reserve standard output for Python: Gloo, which connects CPUs, prints each connection to file descriptor 1."""
    sys.stdout.flush()
    kept, nowhere, stdout = os.dup(1), os.open(os.devnull, os.O_WRONLY), sys.stdout
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(os.dup(kept), "w", buffering=1, encoding=stdout.encoding, errors=stdout.errors)
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stdout = stdout
        os.dup2(kept, 1)
        os.close(kept)


def _check(flags: Flags) -> None:
    addressed = (flags.coordinator, flags.num_processes, flags.process_id) != (None, None, None)
    if addressed and not flags.distributed:
        raise UsageError("--coordinator, --num-processes and --process-id need --distributed")
    if flags.distributed and flags.processes is not None:
        raise UsageError("--processes and --distributed are mutually exclusive")
    if flags.devices_per_process is not None and flags.processes is None:
        raise UsageError("--devices-per-process needs --processes")
    for name, (least, most) in RANGES.items():
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        if value is not None and value > most:
            raise UsageError(f"--{name.replace('_', '-')} must be at most {most}, got {value}")
    distributed.check_flags(flags.coordinator, flags.num_processes, flags.process_id, flags.heartbeat)
    if flags.rendezvous_timeout is not None:
        _check_rendezvous(flags)


def _check_rendezvous(flags: Flags) -> None:
    if flags.coordinator is None:
        raise UsageError("--rendezvous-timeout needs --distributed, --coordinator, --num-processes and --process-id")
    if flags.workdir is None:
        raise UsageError("--rendezvous-timeout needs --workdir, the run that all restarts resume")
    if flags.rendezvous_timeout is not None and flags.rendezvous_timeout < flags.heartbeat:
        raise UsageError(
            f"--rendezvous-timeout must be at least --heartbeat ({flags.heartbeat}), after which a process notices "
            f"that another one is gone. Got {flags.rendezvous_timeout}"
        )


def _without(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the arguments without some flags and their values."""
    kept, skip = [], False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if skip or name.replace("_", "-") in flags:
            skip = not skip and not equals
        else:
            kept.append(arg)
    return kept
