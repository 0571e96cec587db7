"""The command line: reads flags, calls the library, prints.

Exit status 0: done. 2: the user's mistake, told in one line. 130: interrupted. 1: anything else.
"""

import contextlib
import dataclasses
import io
import json
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

import jaxcnn
from jaxcnn import data, models, train
from jaxcnn.errors import UsageError, unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class TrainFlags(train.Config):
    """Train a network. Without flags: LeNet-5 on the images inside the package.

    The same command with the same --workdir continues the run.
    """

    config: str | None = None
    """A Python file that defines `config = jaxcnn.train.Config(...)`; flags override what it says."""
    json: bool = False
    """Print the result as JSON, and everything else to standard error."""


@dataclass(frozen=True)
class EvalFlags:
    """Test a run's latest checkpoint on every test image."""

    workdir: str
    """Folder of the run."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class ModelsFlags:
    """List the architectures."""

    pattern: tyro.conf.Positional[str] = "*"
    """A shell pattern of names, such as 'resnet*'."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class DatasetsFlags:
    """List the data sets, and which of them are prepared."""

    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print the list as JSON."""


def run_train(args: Sequence[str]) -> None:
    defaults = TrainFlags()
    recipe = _flag_value(args, "--config")
    if recipe is not None:
        config = _read_recipe(Path(recipe))
        defaults = TrainFlags(**_values(config, train.Config), config=recipe)
    flags = _parse(TrainFlags, "train", args, defaults)
    config = train.Config(**_values(flags, train.Config))
    result = train.fit(config, console=Console(stderr=flags.json))
    if flags.json:
        print(json.dumps({**result.values, "workdir": str(result.workdir)}, indent=2))


def run_eval(args: Sequence[str]) -> None:
    flags = _parse(EvalFlags, "eval", args)
    values = train.evaluate_run(Path(flags.workdir).expanduser())
    if flags.json:
        print(json.dumps(values, indent=2))
        return
    table = Table("model", "data set", "step", "test accuracy", "test loss", "test images")
    table.add_row(
        values["model"],
        values["dataset"],
        f"{values['step']:,}",
        f"{values['test_accuracy']:.2%}",
        f"{values['test_loss']:.4f}",
        f"{values['test_examples']:,}",
    )
    Console().print(table)


def run_models(args: Sequence[str]) -> None:
    flags = _parse(ModelsFlags, "models", args)
    rows = [{"name": name, "paper": models.paper(name)} for name in models.list_models(flags.pattern)]
    if not rows:
        raise UsageError(f"no model matches {flags.pattern!r}; `jaxcnn models` lists them all")
    _print_rows(rows, as_json=flags.json)


def run_datasets(args: Sequence[str]) -> None:
    flags = _parse(DatasetsFlags, "datasets", args)
    _print_rows([_describe(name, flags.data_dir) for name in data.list_datasets(flags.data_dir)], as_json=flags.json)


def _describe(name: str, data_dir: str | None) -> dict[str, Any]:
    try:
        dataset = data.open_dataset(name, data_dir)
    except UsageError:
        return {"name": name, "prepared": False}
    return {
        "name": name,
        "prepared": True,
        "image": "x".join(map(str, dataset.image_shape)),
        "classes": dataset.num_classes,
        "training images": dataset.examples["train"],
        "test images": dataset.examples["test"],
        "folder": str(dataset.directory),
    }


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "train": (run_train, "train a network and leave everything about the run in a folder"),
    "eval": (run_eval, "test a trained network on every test image"),
    "models": (run_models, "list the architectures"),
    "datasets": (run_datasets, "list the data sets"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = sys.argv[1:] if args is None else list(args)
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_overview())
        elif args[0] == "--version":
            print(f"jaxcnn {jaxcnn.__version__}")
        elif args[0] not in COMMANDS:
            raise unknown_name("command", args[0], COMMANDS)
        else:
            COMMANDS[args[0]][0](args[1:])
        return 0
    except UsageError as error:
        print(f"jaxcnn: {_one_line(error)}", file=sys.stderr)
        return 2
    except train.DivergedError as error:
        print(f"jaxcnn: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxcnn: interrupted; the same command with the same --workdir continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = None  # type: ignore[assignment]  # or Python would fail again while closing it
        return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxcnn COMMAND [FLAGS]",
            "",
            "Convolutional networks in JAX. `jaxcnn train` alone trains LeNet-5 on real images.",
            "",
            *lines,
            "",
            "`jaxcnn COMMAND --help` tells a command's flags.",
        ]
    )


def _parse(flags: type[T], command: str, args: Sequence[str], default: T | None = None) -> T:
    """The flags of a command.

    Raises:
      UsageError: flags that are unknown or have impossible values, in one line.
    """
    said = io.StringIO()
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                flags,
                prog=f"jaxcnn {command}",
                args=list(args),
                config=(tyro.conf.FlagCreatePairsOff,),
                **extra,
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UsageError(_condense(said.getvalue(), command)) from None


def _condense(message: str, command: str) -> str:
    """One line of what tyro says in a box: the error, and the flag that it takes to be meant."""
    lines = [line.strip(" │") for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((index for index, line in enumerate(lines) if set(line) == {"─"}), len(lines))
    error = " ".join(lines[:rule]).rstrip(".")
    meant = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(lines))
    hint = f"did you mean {meant.group(1)}?" if meant else f"see jaxcnn {command} --help"
    return f"{error}; {hint}"


def _flag_value(args: Sequence[str], flag: str) -> str | None:
    for index, arg in enumerate(args):
        if arg == flag and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"{flag}="):
            return arg.split("=", 1)[1]
    return None


def _read_recipe(path: Path) -> train.Config:
    if not path.is_file():
        raise UsageError(f"--config {path} does not exist; it is a Python file that defines `config`")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, train.Config):
        raise UsageError(f"--config {path} must define `config = jaxcnn.train.Config(...)`")
    return config


def _values(instance: Any, fields_of: type[Any]) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(fields_of)}


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def run() -> None:
    """The console script `jaxcnn`."""
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
