"""Read recipes: Python files with default values for the flags of a command that trains (`--config FILE`)."""

import dataclasses
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.cli._own_code import own_code
from jaxcnn.cli._training_flags import value_of
from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path
from jaxcnn.train import Config
from jaxcnn.train.config import validate


def recipe_defaults(flags: Any, args: Sequence[str]) -> Any:
    """Return the default flags of a command, which come from the recipe FILE if `args` contains `--config FILE`.

    Args:
      flags: the dataclass of the command's flags.
      args: arguments of the command.

    Raises:
      UsageError: if the recipe does not exist, cannot be run, or defines no configuration.
    """
    recipe = value_of(args, "--config")
    return flags() if recipe is None else flags(**values_of(_read(recipe)), config=recipe)


def values_of(config: Config) -> dict[str, Any]:
    """Return the fields of `Config` as a dict from name to value. `config` may be an instance of a subclass."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}


def _read(recipe: str) -> Config:
    path = local_path("--config", recipe)
    if not path.is_file():
        raise UsageError(f"--config {path} does not exist; give a Python file that defines `config`")

    def refusal(error: BaseException) -> UsageError:
        what = error if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        return UsageError(f"--config {path} cannot be run{_line_of(error, path)}: {what}")

    with own_code(refusal):
        config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, Config):
        raise UsageError(f"--config {path} must define `config = jaxcnn.train.Config(...)`")
    try:
        validate(config)
    except UsageError as error:
        raise UsageError(f"--config {path}: {error}") from None
    return config


def _line_of(error: BaseException, path: Path) -> str:
    """Return " (line N)" for the line of the recipe that raised the error, or "" if the line is unknown."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" (line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
