"""The command line, one command a file: it reads flags, calls the library, prints.

Exit status 0: done. 2: the user's mistake, told in one line. 130 and 143: stopped by SIGINT (Ctrl-C) or
SIGTERM. 1: anything else.
"""

import importlib
import sys
from collections.abc import Sequence

from jaxcnn import startup
from jaxcnn.errors import RunError, UsageError, unknown_name
from jaxcnn.version import __version__

is_console_script = False
"""Whether this process runs nothing but a command, and may be settled for it."""

# A command's file has a function `run(args)`, and is imported only when the command is called. It may return an exit
# status.
COMMANDS = {
    "train": "train a network and leave everything about the run in a folder",
    "find-lr": "draw the loss against the learning rate and suggest one",
    "eval": "test a trained network on every test image",
    "predict": "tell the classes of images",
    "visualize": "draw what a network has learned and what it sees",
    "convert": "take published weights in, and give trained ones out",
    "export": "write a trained network for other programs to run",
    "models": "list the architectures",
    "summary": "show what a model costs and sees, layer by layer",
    "datasets": "list the data sets, show one, measure its pixels",
    "prepare": "make a data set from its original files, or download it",
    "benchmark": "measure speed and memory, and compare results",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = sys.argv[1:] if args is None else list(args)
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_overview())
        elif args[0] == "--version":
            print(f"jaxcnn {__version__}")
        elif args[0] == "--print-completion":
            importlib.import_module(f"{__name__}.commands.completion").run(args[1:])
        elif args[0] not in COMMANDS:
            raise unknown_name("command", args[0], COMMANDS)
        else:
            name = args[0].replace("-", "_")
            return importlib.import_module(f"{__name__}.commands.{name}").run(args[1:]) or 0
        return 0
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = None  # type: ignore[assignment]  # or Python would fail again while closing it
        return 0


def tell(error: UsageError | RunError | KeyboardInterrupt) -> int:
    """Tells in one line what has gone wrong; returns the exit status for it."""
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
            "`jaxcnn COMMAND --help` tells a command's flags, and `jaxcnn --print-completion bash` (or zsh) prints",
            "a script by which the shell completes them.",
        ]
    )


def run() -> None:
    """The console script `jaxcnn`."""
    global is_console_script
    is_console_script = True
    if sys.argv[1:2] != ["train"]:  # which settles when it knows how large batches are
        startup.settle()
    sys.exit(main())
