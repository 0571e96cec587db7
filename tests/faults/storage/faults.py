"""Faults of storage. Each gives the run directory and how the disturbed run ended."""

import contextlib
import errno
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from killing import Ended

from storage import disks
from storage.bench import Bench

TARGETS = {
    "checkpoints/": ("create", "write", "sync", "rename", "mkdir"),
    "metrics": ("create", "write", "sync", "rename"),
    "events.out": ("create", "write", "sync"),
    "curves": ("create", "write", "sync", "rename"),
    "result": ("create", "write", "sync", "rename"),
    "config": ("create", "write", "sync", "rename"),
    "preprocessing": ("create", "write", "sync", "rename"),
    "data.": ("create", "write", "sync", "rename"),
}
"""Parts of the names of what a run writes, and the operations with which it does."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ESTALE)
YEAR = 365 * 86_400

Disturbed = tuple[Path, Ended]


class NotHere(Exception):
    """This machine does not allow the fault, such as a mount."""


def _name(number: int) -> str:
    return errno.errorcode[number]


@contextlib.contextmanager
def failing_call(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """One kind of call on one kind of file fails, once or from then on."""
    run, target = bench.folder / "run", chance.choice([*TARGETS])
    operation, error = chance.choice(TARGETS[target]), chance.choice(ERRORS)
    often = target == "checkpoints/" or (target in ("metrics", "events.out") and operation != "create")
    after, times = chance.choice((0, 1, 4, 20) if often else (0,)), chance.choice((1, -1))
    kind = chance.choice(("fail", "short")) if operation == "write" else "fail"
    note.append(f"{operation} of {target}: {_name(error)}, {kind}, after {after}, {'once' if times > 0 else 'always'}")
    bench.shim.plan(str(run), target, operation, error=error, after=after, times=times, kind=kind)
    yield run, bench.worker.run(run)


@contextlib.contextmanager
def dying_disk(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """Every call that changes something in the run directory fails from a moment on: read-only, full, broken."""
    run, error, event = bench.folder / "run", chance.choice(ERRORS), chance.randrange(bench.events)
    note.append(f"{_name(error)} from event {event} on")
    operations = ("create", "write", "sync", "rename", "mkdir")
    do = lambda: bench.shim.plan(str(run), "", *operations, error=error)  # noqa: E731
    yield run, bench.worker.run_until(event, do, run)


@contextlib.contextmanager
def full_disk(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """A small disk has no space, or no room for names, from a moment on."""
    disk, event, bytes_ = bench.folder / "disk", chance.randrange(bench.events), chance.random() < 0.7
    left = chance.choice((0, 4096, 40_000, 400_000, 1_200_000)) if bytes_ else chance.choice((0, 1, 3, 10))
    note.append(f"{left} {'bytes' if bytes_ else 'names'} left from event {event} on")
    ballast: list[Path] = []
    with disks.small_disk(disk, "size=12m,nr_inodes=2k") as is_mounted:
        if not is_mounted:
            raise NotHere("mount")
        do = lambda: ballast.extend((disks.fill if bytes_ else disks.use_up_names)(disk, left))  # noqa: E731
        ended = bench.worker.run_until(event, do, disk / "run")
        for path in ballast:
            path.unlink(missing_ok=True)
        yield disk / "run", ended


@contextlib.contextmanager
def lost_permissions(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """A folder of the run loses its permissions from a moment on."""
    place, event = bench.folder / "place", chance.randrange(bench.events)
    lost, mode = chance.choice(("run", "run/checkpoints")), chance.choice((0o000, 0o555))
    note.append(f"{lost} gets mode {mode:03o} at event {event}")
    place.mkdir()

    def lose() -> None:
        if (place / lost).exists():
            (place / lost).chmod(mode)

    ended = bench.worker.run_until(event, lose, place / "run", obeys_permissions=True)
    if (place / lost).exists():
        (place / lost).chmod(0o755)
    yield place / "run", ended


@contextlib.contextmanager
def slow_disk(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """Each call takes so long that a save takes longer than the steps between two."""
    run, delay = bench.folder / "run", chance.choice((0.003, 0.01, 0.02))
    note.append(f"{delay} s each")
    bench.shim.plan(str(run), "checkpoints/", "create", "write", "sync", "rename", "mkdir", delay=delay)
    yield run, bench.worker.run(run)


@contextlib.contextmanager
def clock_steps(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """The time of day steps by up to a year, back or forth, before the run and in it."""
    run, event = bench.folder / "run", chance.randrange(bench.events)
    first, then = (chance.choice((-1, 1)) * chance.choice((60, 86_400, YEAR)) for _ in range(2))
    killed = chance.random() < 0.5
    note.append(f"{first} s before, {then} s from event {event} on{', then a kill' if killed else ''}")
    bench.shim.clock = first

    def step() -> None:
        bench.shim.clock = then
        if killed:
            os.kill(bench.worker.pid, signal.SIGKILL)

    yield run, bench.worker.run_until(event, step, run)


@contextlib.contextmanager
def second_run(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """Another process starts the same command in the folder: it is refused. A lock that outlives a kill is not."""
    run, event, killed = bench.folder / "run", chance.randrange(bench.events), chance.random() < 0.4
    note.append(f"at event {event}{', after a kill' if killed else ''}")
    seconds: list[Ended] = []

    def start() -> None:
        if killed:
            os.kill(bench.worker.pid, signal.SIGKILL)
        else:
            # The first one waits: else it might end before the second one has looked.
            os.kill(bench.worker.pid, signal.SIGSTOP)
            seconds.append(bench.second.run(run))
            os.kill(bench.worker.pid, signal.SIGCONT)

    ended = bench.worker.run_until(event, start, run)
    note += [
        f"FAILED: the second run ended with {second.status}: {second.errors.strip()[:300]}"
        for second in seconds
        if second.status != 2 or "is in use by process" not in second.errors or second.errors.count("\n") != 1
    ]
    yield run, ended


@contextlib.contextmanager
def moved_folder(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """The folder is renamed during the run, or after a kill, and the run goes on at its new or at its old place."""
    run, other, event = bench.folder / "run", bench.folder / "moved", chance.randrange(bench.events)
    killed, back, replaced = chance.random() < 0.3, chance.random() < 0.3, chance.random() < 0.3
    how = "killed and " if killed else ""
    note.append(f"{how}moved at event {event}{', replaced' if replaced else ''}{', and back' if back else ''}")

    def move() -> None:
        if killed:
            os.kill(bench.worker.pid, signal.SIGKILL)
        if run.exists():
            run.rename(other)
            if replaced:
                run.mkdir()

    ended = bench.worker.run_until(event, move, run)
    if not other.exists():  # it had not been created when it was to be moved
        yield run, ended
        return
    stray = _files(run)
    if stray:
        note.append(f"FAILED: {stray} were written to the old place")
    shutil.rmtree(run, ignore_errors=True)
    if back:
        other.rename(run)
    yield run if back else other, ended


def _files(folder: Path) -> list[str]:
    """Return the files in a folder, which need not exist, except for one checkpoint.

    Orbax creates missing folders. A save that is in progress when the folder goes may end at the old place.
    """
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    steps = {path.parts[: path.parts.index("checkpoints") + 2] for path in files if "checkpoints" in path.parts}
    return [str(path) for path in files if "checkpoints" not in path.parts or len(steps) > 1]


@contextlib.contextmanager
def lost_disk(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """A mounted disk is taken away during the run, and mounted again."""
    original, disk, event = bench.folder / "original", bench.folder / "disk", chance.randrange(bench.events)
    note.append(f"at event {event}")
    original.mkdir()
    with disks.same_disk(original, disk) as is_mounted:
        if not is_mounted:
            raise NotHere("mount")
        ended = bench.worker.run_until(event, lambda: disks.unmount(disk), disk / "run")
    stray = _files(disk)
    if stray and event:  # at its first event the run may not have created its folder
        note.append(f"FAILED: {stray} were written to the folder of the disk that is gone")
    shutil.rmtree(disk)
    with disks.same_disk(original, disk):
        yield disk / "run", ended


@contextlib.contextmanager
def unreadable(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """A run is killed, and its files cannot be read when it is to go on."""
    run, event = bench.folder / "run", chance.randrange(bench.events // 4, bench.events)
    target, error = chance.choice(("checkpoints/", "metrics", "config", "")), chance.choice((errno.EIO, errno.EACCES))
    after = chance.choice((0, 1, 5, 20)) if target in ("checkpoints/", "") else 0
    note.append(f"reads of {target or 'all'}: {_name(error)} after {after}; killed at event {event}")
    bench.worker.run_until(event, lambda: os.kill(bench.worker.pid, signal.SIGKILL), run)
    bench.shim.plan(str(run), target, "read", error=error, after=after)
    yield run, bench.worker.run(run)


@contextlib.contextmanager
def lying_disk(bench: Bench, chance: random.Random, note: list[str]) -> Iterator[Disturbed]:
    """The disk stores something else than what was written, without an error; the run is killed later, or ends."""
    run, target, times = bench.folder / "run", chance.choice([*TARGETS]), chance.choice((1, 1, -1))
    after, event = chance.choice((0, 1, 4, 20)), chance.randrange(bench.events)
    killed = chance.random() < 0.5
    note.append(
        f"write {after} of {target}{' and later' if times < 0 else ''}{f', a kill at {event}' if killed else ''}"
    )
    bench.shim.plan(str(run), target, "write", after=after, times=times, kind="lie")
    do = (lambda: os.kill(bench.worker.pid, signal.SIGKILL)) if killed else (lambda: None)
    yield run, bench.worker.run_until(event, do, run)


Fault = Callable[[Bench, random.Random, list[str]], contextlib.AbstractContextManager[Disturbed]]
FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(failing_call, full_disk, dying_disk, lying_disk, unreadable, lost_permissions, lost_disk),
        *(slow_disk, clock_steps, second_run, moved_folder),
    )
}
