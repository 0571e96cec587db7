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
    """Train a network. Without flags, train LeNet-5 on the images inside the package.

    To resume a run, repeat the command with the same --workdir.
    """

    config: str | None = None
    """Python file that defines `config = jaxcnn.train.Config(...)`. Flags override the values in this file."""
    json: bool = False
    """Print the result as JSON, and all other output to standard error."""
    processes: int | None = None
    """Start this number of processes on this machine. If a process dies, restart all processes from the latest
    checkpoint."""
    devices_per_process: int | None = None
    """Number of devices of each process that --processes starts: virtual CPU devices, or GPUs (default: one)."""
    max_restarts: int = 3
    """Stop supervised processes with an error after this number of restarts in a row without progress."""
    distributed: bool = False
    """Join a multi-process job. In a cluster (SLURM, Open MPI, TPU pods), JAX finds the other processes. Elsewhere,
    give --coordinator, --num-processes and --process-id."""
    coordinator: str | None = None
    """Address of the first process of the job, as HOST:PORT."""
    num_processes: int | None = None
    """Number of processes in the job."""
    process_id: int | None = None
    """Index of this process in the job, counted from 0."""
    rendezvous_timeout: int | None = None
    """Supervise this process. After a failure, wait this number of seconds for the processes of the other machines,
    then restart with the processes that have arrived. This flag needs --workdir, --distributed, --coordinator,
    --num-processes and --process-id."""
    heartbeat: int = HEARTBEAT_SECONDS
    """Number of seconds without a heartbeat after which a process of the job counts as dead."""
    hang_timeout: int = waits.HANG_SECONDS
    """End the process with status 124 if it waits this number of seconds for data, a device, a disk or another process.
    0: wait without a limit."""
    xla_preset: str | None = None
    """Preset of XLA's options for GPUs, such as latency-hiding or nhwc (default: the preset in the environment variable
    JAXCNN_XLA_PRESET, or none)."""


# Smallest and largest values of the flags that are not fields of `Config`. Each process needs memory and CPU time.
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
    """Run `jaxcnn train`, and return an exit status or None. Call `settle` with the batch size before JAX starts."""
    flags = parse_training(Flags, "train", args, recipe_defaults(Flags, args))
    _check(flags)
    settle(_batch_values(flags), flags.xla_preset)
    if flags.processes is not None:
        return _supervise(flags, args)
    if flags.rendezvous_timeout is not None:
        return _supervise_member(flags, args)
    if flags.distributed:
        return _be_one_of_many(flags, args)
    if settle is not leave_alone and flags.hang_timeout:  # only the console script may end its process
        waits.end_when_hung(flags.hang_timeout, "the run")
    _fit(flags, args)
    return None


def _batch_values(flags: Flags) -> int | None:
    """Return the number of values in a batch of images, or None if the number is unknown before the dataset is open."""
    try:
        # An approximate number of pixels is enough: the square of the mean of height and width.
        size = flags.image_size if not isinstance(flags.image_size, tuple) else sum(flags.image_size) // 2
        return Case(flags.model, int(flags.batch_size), image_size=size).batch_values
    except (UsageError, TypeError, ValueError):  # wrong flags are reported later
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
    """Start and watch the processes of `--processes`. Choose the run directory once, so that all restarts use it."""
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
    """Start and watch the process of this machine in a job on several machines."""
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
        # No other process is connected yet, so a supervisor can try again with another port.
        status = tell(error)
        return status if launch.command_of_supervisor() is None else launch.TRY_AGAIN
    except train.CorruptDeviceError as error:
        status = tell(error)
        distributed.leave(launch.failure_status() if error.elsewhere else status)
    except (UsageError, RunError, KeyboardInterrupt) as error:
        distributed.leave(tell(error))
    except jax.errors.JaxRuntimeError as error:
        # Usually another process has died. JAX reports this in many lines, so only the first line is printed.
        print(f"jaxcnn: process {jax.process_index()} stops: {str(error).splitlines()[0]}", file=sys.stderr)
        distributed.leave(launch.failure_status())
    except Exception:
        traceback.print_exc()
        distributed.leave(launch.failure_status())


@contextlib.contextmanager
def _kept_standard_output() -> Iterator[None]:
    """Let only Python print to standard output. Discard the output of the library Gloo, which connects processes."""
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
        raise UsageError("--rendezvous-timeout needs --workdir, the run directory that all restarts resume")
    if flags.rendezvous_timeout is not None and flags.rendezvous_timeout < flags.heartbeat:
        raise UsageError(
            f"--rendezvous-timeout must be at least --heartbeat ({flags.heartbeat}): {flags.rendezvous_timeout}. "
            f"Give {flags.heartbeat} or more, because processes need --heartbeat seconds to notice a lost process."
        )


def _without(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the arguments `args` without the given flags and without the values of these flags."""
    kept, skip = [], False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if skip or name.replace("_", "-") in flags:
            skip = not skip and not equals
        else:
            kept.append(arg)
    return kept
