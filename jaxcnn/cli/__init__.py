"""The command line. Each command is one file, which parses flags, calls the library and prints.

Exit status: 0 done; 2 a mistake of the user, reported in one line; 130 and 143 stopped by SIGINT (Ctrl-C) or SIGTERM;
1 anything else.

`main` is a library call, and leaves the process as it was. `run`, the console script, owns its process and makes its
settings (`jaxcnn.startup`).
"""

import errno
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jaxcnn.cli._signals import CONTINUED, end_by_sigterm, ended_by_ctrl_c
from jaxcnn.errors import RunError, UsageError, printable, unknown_name
from jaxcnn.version import __version__

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE)
"""Errors of a disk, of a network's file system and of permissions. They may come at any moment."""

Settle = Callable[[int | None, str | None], object]
"""Makes the settings of the process, given the number of values in a batch of images, if known, and an XLA preset."""

# The file of a command is imported when the command is called. Its function `run(args)` may return an exit status.
COMMANDS = {
    "train": "train a model, and write everything about the run to its directory",
    "find-lr": "plot the loss against the learning rate, and suggest one",
    "sweep": "train many networks, and compare settings over seeds",
    "check": "examine a run directory for damage",
    "eval": "evaluate a trained model on the whole test set",
    "predict": "classify images",
    "visualize": "draw what a model has learned and what it sees",
    "convert": "import published weights, or export trained ones",
    "export": "write a trained model for other programs to run",
    "models": "list the architectures",
    "summary": "list a model's layers: parameters, operations, receptive fields",
    "datasets": "list datasets, show one, compute its pixel statistics",
    "prepare": "make a dataset from its original files, or download it",
    "benchmark": "measure speed and memory, and compare results",
    "compile": "compile for absent TPUs and GPUs: memory, bounds, scaling",
    "completion": "print a script that completes commands and flags in a shell",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status. The process's own settings stay as they are.

    Args:
      args: the command and its flags; those of the process by default.
    """
    return _main(sys.argv[1:] if args is None else list(args), settle=leave_alone)


def leave_alone(batch_values: int | None, xla_preset: str | None) -> None:
    """Make no settings of the process.

    Raises:
      UsageError: if a preset is asked for.
    """
    if xla_preset is not None:
        raise UsageError(
            f"--xla-preset {xla_preset} is a setting of the process. Call jaxcnn.startup.settle(xla_preset=...) instead"
        )


def _main(args: list[str], settle: Settle) -> int:
    """Run one command, which calls `settle` before it starts JAX."""
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_overview())
        elif args[0] == "--version":
            print(f"jaxcnn {__version__}")
        elif args[0] not in COMMANDS:
            raise unknown_name("command", args[0], COMMANDS)
        else:
            return _run_command(args[0], args[1:], settle)
        return 0
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 0
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # raised by rich
            return 0
        raise
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        where = "output cannot be written" if error.filename is None else printable(error.filename)
        print(f"jaxcnn: {where}: {error.strerror}", file=sys.stderr)
        return 1


def _run_command(name: str, args: list[str], settle: Settle) -> int:
    command = _import_command(name)
    if name == "train":  # settles when it knows the batch size
        return command.run(args, settle) or 0
    settle(None, None)
    return command.run(args) or 0


def _import_command(name: str) -> Any:
    return importlib.import_module(f"{__name__}.commands.{name.replace('-', '_')}")


def tell(error: UsageError | RunError | KeyboardInterrupt) -> int:
    """Print one line on what went wrong, and return the exit status for it."""
    if isinstance(error, KeyboardInterrupt):
        print(f"jaxcnn: interrupted{CONTINUED}", file=sys.stderr)
        return 130
    print(f"jaxcnn: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else error.exit_status


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: jaxcnn COMMAND [FLAGS]",
            "",
            "Train and use convolutional networks in JAX.",
            "`jaxcnn train` without flags trains LeNet-5 on the images inside the package.",
            "",
            *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            "`jaxcnn COMMAND --help` lists the flags of a command.",
        ]
    )


def run() -> None:
    """Run the console script `jaxcnn`."""
    args = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is printed with escapes
            stream.reconfigure(errors="backslashreplace")
    # Pillow warns about damaged metadata of images, which does not concern their pixels.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    end_by_sigterm(CONTINUED if args and args[0] in ("train", "sweep") else "")
    with ended_by_ctrl_c():
        if args and args[0] in COMMANDS:
            _import_command(args[0])
    sys.exit(_flushed(_main(args, _settle)))


def _settle(batch_values: int | None, xla_preset: str | None) -> object:
    from jaxcnn import startup  # imports JAX, which the overview of the commands does not need

    return startup.settle(batch_values, xla_preset)


def _flushed(status: int) -> int:
    """Write what is still buffered for standard output, and return the exit status."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]  # otherwise Python flushes it again at exit, and fails
        if not isinstance(error, BrokenPipeError):
            print(f"jaxcnn: output cannot be written: {error.strerror}", file=sys.stderr)
            return status or 1
    return status
