"""A process that runs one command after another: `python child.py REQUESTS REPLIES MODULE:FUNCTION`.

REQUESTS and REPLIES are file descriptors. Each line is JSON. Standard output and standard error of a command go to
files. No command reaches a network.
"""

import contextlib
import errno
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Main = Callable[[Sequence[str]], int]


def refuse_networks(event: str, arguments: tuple[Any, ...]) -> None:
    """Make every attempt to reach another machine fail at once, as without a network."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def main() -> None:
    requests = os.fdopen(int(sys.argv[1]), "r")
    replies = os.fdopen(int(sys.argv[2]), "w", buffering=1)
    run = load(sys.argv[3])
    sys.addaudithook(refuse_networks)
    print(json.dumps({"ready": os.getpid()}), file=replies)
    for line in requests:
        request = json.loads(line)
        reset_peak_memory()
        with output_to(Path(request["output"])), kept_state(request["folder"]):
            reply = answer(run, request["args"])
        print(json.dumps({**reply, **memory()}), file=replies)


def load(name: str) -> Main:
    """Return the function `MODULE:FUNCTION`. For `jaxcnn.cli`, import the commands too, which takes time."""
    module, _, function = name.partition(":")
    found = importlib.import_module(module)
    for command in getattr(found, "COMMANDS", {}):
        importlib.import_module(f"{module}.commands.{command.replace('-', '_')}")
    return getattr(found, function)


def answer(run: Main, args: Sequence[str]) -> dict[str, Any]:
    """Run a command. The reply has its status, or the traceback of what it raised."""
    try:
        status: Any = run(args)
    except SystemExit as exit:
        if exit.code not in (None, 0):
            return {"status": None, "exception": traceback.format_exc()}
        status = 0  # --help
    except BaseException:
        return {"status": None, "exception": traceback.format_exc()}
    return {"status": status, "exception": None}


@contextlib.contextmanager
def output_to(folder: Path) -> Iterator[None]:
    """Send standard output and standard error, those of C++ included, to files `stdout` and `stderr` in a folder.

    A signal SIGUSR1 writes to `stderr` where each thread is.
    """
    before = os.dup(1), os.dup(2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError):
                stream.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)


@contextlib.contextmanager
def kept_state(folder: str) -> Iterator[None]:
    """Run in a folder. Put back what a command or the code that it imports may change in this process."""
    path, environment, modules = list(sys.path), dict(os.environ), set(sys.modules)
    os.chdir(folder)
    try:
        with warnings.catch_warnings():  # which forgets the warnings that were shown already
            yield
    finally:
        os.chdir("/")
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
                del sys.modules[name]
        importlib.invalidate_caches()


def reset_peak_memory() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory() -> dict[str, int]:
    """Return the resident memory now and at its peak since the last reset, in bytes."""
    with contextlib.suppress(OSError):
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: int(lines[key].split()[0]) * 1024 for name, key in (("resident", "VmRSS"), ("peak", "VmHWM"))}
    return {"resident": 0, "peak": 0}


if __name__ == "__main__":
    main()
