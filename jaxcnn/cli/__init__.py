"""The command line `jaxcnn`. Each command has its own file, which parses the flags, calls the library and prints.

Exit status: 0 for success; 2 for a mistake of the user, which is reported in one line; 130 after SIGINT (Ctrl-C); 143
after SIGTERM; 1 for any other failure.

`main` is for Python programs and does not change process-wide settings. `run` is the entry point of the console script.
`run` calls `jaxcnn.startup.settle`, which changes process-wide settings.
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
"""Error numbers that any use of a file may raise: errors of disks, network file systems and permissions."""

Settle = Callable[[int | None, str | None], object]
"""A function that changes process-wide settings before JAX starts.

The first argument is the number of values in a batch of images, or None if this number is unknown. The second argument
is the name of an XLA preset, or None.
"""

# The file of a command is imported when the command is called. The file has a function `run(args)`, which may return an
# exit status.
COMMANDS = {
    "train": "train a model, and write everything about the run to its directory",
    "find-lr": "suggest a learning rate, from the losses of one short run",
    "sweep": "train many networks, and compare settings over seeds",
    "check": "examine a run directory for damage",
    "eval": "evaluate a trained model on the whole test set",
    "predict": "classify images",
    "visualize": "draw what a model has learned and what it sees",
    "convert": "import published weights, or export trained weights",
    "export": "write a trained model for other programs to run",
    "models": "list the architectures",
    "summary": "list a model's layers: parameters, operations, receptive fields",
    "datasets": "list datasets, draw example images, measure pixel statistics",
    "prepare": "make a dataset from its original files, or download it",
    "benchmark": "measure speed and memory, and compare results",
    "compile": "predict memory and speed on TPUs and GPUs that this machine lacks",
    "completion": "print a script that completes commands and flags in a shell",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status. Process-wide settings are not changed.

    Args:
      args: the command and its flags, such as `["train", "--epochs", "2"]`. Default: the arguments of the process.
    """
    return _main(sys.argv[1:] if args is None else list(args), settle=leave_alone)


def leave_alone(batch_values: int | None, xla_preset: str | None) -> None:
    """Do nothing, so that process-wide settings do not change.

    Raises:
      UsageError: if an XLA preset is given, because a preset is a process-wide setting.
    """
    if xla_preset is not None:
        raise UsageError(
            f"--xla-preset {xla_preset} cannot be set here, because it changes the whole process. "
            "Call jaxcnn.startup.settle(xla_preset=...) instead"
        )


def _main(args: list[str], settle: Settle) -> int:
    """Run one command, and return its exit status. The command calls `settle` before it starts JAX."""
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
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        return 0
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # rich raises this exception
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
    if name == "train":  # `train` calls `settle` when the batch size is known
        return command.run(args, settle) or 0
    settle(None, None)
    return command.run(args) or 0


def _import_command(name: str) -> Any:
    return importlib.import_module(f"{__name__}.commands.{name.replace('-', '_')}")


def tell(error: UsageError | RunError | KeyboardInterrupt) -> int:
    """Print an error as one line on standard error, and return the exit status for this error."""
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
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal cannot encode are printed as escapes
            stream.reconfigure(errors="backslashreplace")
    # Pillow warns about damaged metadata of images, but the metadata does not affect the pixels.
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
    """Flush standard output, and return the exit status: `status`, or 1 if the output cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]  # otherwise Python flushes `sys.stdout` again at exit, and fails
        if not isinstance(error, BrokenPipeError):
            print(f"jaxcnn: output cannot be written: {error.strerror}", file=sys.stderr)
            return status or 1
    return status
