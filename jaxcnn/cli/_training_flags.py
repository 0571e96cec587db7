"""Flags of the commands that train: the fields of `Config`, and the keywords of the optimizer."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from jaxcnn.cli._flags import parse
from jaxcnn.errors import UsageError, closest
from jaxcnn.train import Config, OptimizerConfig
from jaxcnn.train.optim.optimizers import OPTIMIZERS, Optimizer

TrainingFlags = TypeVar("TrainingFlags", bound=Config)

OPTIMIZER_PREFIX = "--optimizer."
# Fields of the optimizer that are flags of their own.
FIELDS = {field.name for field in dataclasses.fields(OptimizerConfig)} - {"options"}


def parse_training(
    flags: type[TrainingFlags], command: str, args: Sequence[str], default: TrainingFlags
) -> TrainingFlags:
    """Return the flags of a command that trains, which include keywords of the optimizer (`--optimizer.b2 0.95`).

    Args:
      flags: a dataclass with the fields of `Config`.
      command: name of the command.
      args: the command's arguments.
      default: values of flags that are not given.

    Raises:
      UsageError: as `parse`; if the optimizer has no such keyword; or if both --epochs and --steps are given.
    """
    rest, keywords = _split_optimizer_keywords(args)
    name = value_of(rest, f"{OPTIMIZER_PREFIX}name")
    recorded = default.optimizer
    if name not in (None, recorded.name):
        # Keywords of the recipe's optimizer do not apply to another one.
        recorded = dataclasses.replace(recorded, momentum=None, options=())
    # tyro would make flags of the pairs in `options`.
    shown = dataclasses.replace(recorded, options=())
    default = dataclasses.replace(default, optimizer=shown, **_length_of_recipe(rest))
    parsed = parse(flags, command, rest, default)
    if (optimizer := OPTIMIZERS.get(parsed.optimizer.name)) is not None:  # an unknown name is reported later
        _check_keyword_flags(parsed.optimizer.name, optimizer, list(keywords))
    options = {**dict(recorded.options), **{keyword: _literal(value) for keyword, value in keywords.items()}}
    optimizer = dataclasses.replace(parsed.optimizer, **options)
    return dataclasses.replace(parsed, optimizer=optimizer)


def _length_of_recipe(args: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a recipe that a flag for the length of the run replaces: epochs by steps, or the reverse.

    Raises:
      UsageError: if both flags are given.
    """
    has_epochs, has_steps = (value_of(args, flag) is not None for flag in ("--epochs", "--steps"))
    if has_epochs and has_steps:
        raise UsageError("--epochs and --steps are mutually exclusive; pass one of them")
    return {"epochs": Config.epochs} if has_steps else {"steps": None} if has_epochs else {}


def _split_optimizer_keywords(args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take flags of the form `--optimizer.KEYWORD VALUE` or `--optimizer.KEYWORD=VALUE` out of the arguments.

    Fields of `OptimizerConfig` are left to tyro. A keyword without a value is True.
    """
    rest: list[str] = []
    keywords: dict[str, str] = {}
    remaining = list(args)
    while remaining:
        flag, equals, value = remaining[0].partition("=")
        keyword = flag.removeprefix(OPTIMIZER_PREFIX).replace("-", "_")
        if not flag.startswith(OPTIMIZER_PREFIX) or keyword.removeprefix("no_") in FIELDS:
            rest.append(remaining.pop(0))
            continue
        remaining.pop(0)
        if not equals:
            value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else "True"
        keywords[keyword] = value
    return rest, keywords


def _check_keyword_flags(name: str, optimizer: Optimizer, keywords: Sequence[str]) -> None:
    """Raise `UsageError` for a keyword that the optimizer does not have, with the closest flag."""
    accepted = optimizer.keywords()
    for keyword in keywords:
        if keyword not in accepted:
            near = closest(keyword, {*FIELDS, *accepted})
            hint = f"did you mean {_flag(near)}?" if near else f"known: {', '.join(map(_flag, sorted(accepted)))}"
            raise UsageError(f"unknown flag {_flag(keyword)} of optimizer {name}; {hint}")


def _flag(keyword: str) -> str:
    return OPTIMIZER_PREFIX + keyword.replace("_", "-")


def _literal(text: str) -> Any:
    """Return the Python literal in a text (true, false and none in any case), or else the text itself.

    >>> _literal("1e-6"), _literal("true"), _literal("(3.4, -4.8)"), _literal("bfloat16")
    (1e-06, True, (3.4, -4.8), 'bfloat16')
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two: deep nesting
        return text


def value_of(args: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag among the arguments, or None if it is not given."""
    for index, arg in enumerate(args):
        if arg == flag and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"{flag}="):
            return arg.split("=", 1)[1]
    return None
