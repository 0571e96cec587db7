"""The command line. Each command is one file, which parses flags, calls the library and prints.

Exit status: 0 done; 2 a mistake of the user, reported in one line; 130 and 143 stopped by SIGINT (Ctrl-C) or SIGTERM;
1 anything else.

`main` is a library call, and leaves the process as it was. `run`, the console script, owns its process and makes its
settings (`jaxcnn.startup`).
"""

import importlib
import sys
from collections.abc import Callable, Sequence

from jaxcnn import startup
from jaxcnn.errors import RunError, UsageError, unknown_name
from jaxcnn.version import __version__

Settle = Callable[[int | None], object]
"""Makes the settings of the process, given the number of values in a batch of images, if known."""

# The file of a command is imported when the command is called. Its function `run(args)` may return an exit status.
COMMANDS = {
    "train": "train a model, and write everything about the run to its directory",
    "find-lr": "plot the loss against the learning rate, and suggest one",
    "eval": "evaluate a trained model on the whole test set",
    "predict": "classify images",
    "visualize": "draw what a model has learned and what it sees",
    "convert": "import published weights, or export trained ones",
    "export": "write a trained model for other programs to run",
    "models": "list the architectures",
    "summary": "show a model's parameters, operations and receptive fields, layer by layer",
    "datasets": "list datasets, show one, compute its pixel statistics",
    "prepare": "make a dataset from its original files, or download it",
    "benchmark": "measure speed and memory, and compare results",
    "completion": "print a script that completes commands and flags in a shell",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status. The process's own settings stay as they are.

    Args:
      args: the command and its flags; those of the process by default.
    """
    return _main(sys.argv[1:] if args is None else list(args), settle=lambda batch_values: None)


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
            command = importlib.import_module(f"{__name__}.commands.{args[0].replace('-', '_')}")
            if args[0] == "train":  # settles when it knows the batch size
                return command.run(args[1:], settle) or 0
            settle(None)
            return command.run(args[1:]) or 0
        return 0
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 0


def tell(error: UsageError | RunError | KeyboardInterrupt) -> int:
    """Print one line on what went wrong, and return the exit status for it."""
    if isinstance(error, KeyboardInterrupt):
        print("jaxcnn: interrupted; the same command with the same --workdir continues", file=sys.stderr)
        return 130
    print(f"jaxcnn: {' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else error.exit_status


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: jaxcnn COMMAND [FLAGS]",
            "",
            "Convolutional networks in JAX. `jaxcnn train` alone trains LeNet-5 on real images.",
            "",
            *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            "`jaxcnn COMMAND --help` lists the flags of a command.",
        ]
    )


def run() -> None:
    """Run the console script `jaxcnn`."""
    status = _main(sys.argv[1:], startup.settle)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # otherwise Python flushes it again at exit, and fails
    sys.exit(status)
