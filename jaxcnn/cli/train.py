"""`jaxcnn train`: train a network."""

import dataclasses
import json
import runpy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxcnn import train
from jaxcnn.cli.flags import parse
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class Flags(train.Config):
    """Train a network. Without flags: LeNet-5 on the images inside the package.

    The same command with the same --workdir continues the run.
    """

    config: str | None = None
    """A Python file that defines `config = jaxcnn.train.Config(...)`; flags override what it says."""
    json: bool = False
    """Print the result as JSON, and everything else to standard error."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "train", args, recipe_defaults(Flags, args))
    try:
        result = train.fit(train.Config(**values_of(flags)), console=Console(stderr=flags.json))
    except train.InterruptedRunError as stop:
        where = [] if flags.workdir else ["--workdir", str(stop.workdir)]
        stop.how = shlex.join(["jaxcnn", "train", *args, *where])
        raise
    if flags.json:
        print(json.dumps({**result.values, "workdir": str(result.workdir)}, indent=2))


def recipe_defaults(flags: Any, args: Sequence[str]) -> Any:
    """Flags with the values of the recipe that `--config` names among `args`, if it does."""
    recipe = _flag_value(args, "--config")
    return flags() if recipe is None else flags(**values_of(_read_recipe(Path(recipe))), config=recipe)


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


def values_of(config: train.Config) -> dict[str, Any]:
    """The configuration among flags, field by field."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(train.Config)}
