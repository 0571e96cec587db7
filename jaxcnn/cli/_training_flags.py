"""Parse the flags of the commands that train: the fields of `Config`, and keyword arguments of the optimizer."""

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
# Fields of `OptimizerConfig` that tyro turns into flags.
FIELDS = {field.name for field in dataclasses.fields(OptimizerConfig)} - {"options"}


def parse_training(
    flags: type[TrainingFlags], command: str, args: Sequence[str], default: TrainingFlags
) -> TrainingFlags:
    """Return the flags of a command that trains, including keywords of the optimizer (`--optimizer.b2 0.95`).

    Args:
      flags: a dataclass with the fields of `Config`.
      command: name of the command, such as "train".
      args: arguments of the command.
      default: instance of `flags` with the values of the flags that `args` does not contain.

    Raises:
      UsageError: if a flag is unknown or has an invalid value, if the optimizer does not accept a given keyword, or if
        both --epochs and --steps are given.
    """
    rest, keywords = _split_optimizer_keywords(args)
    name = value_of(rest, f"{OPTIMIZER_PREFIX}name")
    recorded = default.optimizer
    if name not in (None, recorded.name):
        # Keywords for the optimizer of the recipe do not apply to another optimizer.
        recorded = dataclasses.replace(recorded, momentum=None, options=())
    # Otherwise tyro would create flags for the pairs in `options`.
    shown = dataclasses.replace(recorded, options=())
    default = dataclasses.replace(default, optimizer=shown, **_length_of_recipe(rest))
    parsed = parse(flags, command, rest, default)
    if (optimizer := OPTIMIZERS.get(parsed.optimizer.name)) is not None:  # an unknown optimizer name is reported later
        _check_keyword_flags(parsed.optimizer.name, optimizer, list(keywords))
    options = {**dict(recorded.options), **{keyword: _literal(value) for keyword, value in keywords.items()}}
    optimizer = dataclasses.replace(parsed.optimizer, **options)
    return dataclasses.replace(parsed, optimizer=optimizer)


def _length_of_recipe(args: Sequence[str]) -> dict[str, Any]:
    """Return a dict with the default of `epochs` if --steps is given, or of `steps` if --epochs is given, or {}.

    The default replaces the value in the recipe, because the value in the recipe would contradict the given flag.

    Raises:
      UsageError: if both --epochs and --steps are given.
    """
    has_epochs, has_steps = (value_of(args, flag) is not None for flag in ("--epochs", "--steps"))
    if has_epochs and has_steps:
        raise UsageError("--epochs and --steps are mutually exclusive. Omit one of the two flags.")
    return {"epochs": Config.epochs} if has_steps else {"steps": None} if has_epochs else {}


def _split_optimizer_keywords(args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without `--optimizer.KEYWORD VALUE` (or `KEYWORD=VALUE`), and the values of the keywords.

    Flags for fields of `OptimizerConfig` stay in the arguments, for tyro. A keyword without a value gets the value
    "True".
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
    """Raise `UsageError`, which suggests the closest flag, for a keyword that the optimizer does not have."""
    accepted = optimizer.keywords()
    for keyword in keywords:
        if keyword not in accepted:
            near = closest(keyword, {*FIELDS, *accepted})
            hint = f"did you mean {_flag(near)}?" if near else f"known: {', '.join(map(_flag, sorted(accepted)))}"
            raise UsageError(f"unknown flag {_flag(keyword)} of optimizer {name}; {hint}")


def _flag(keyword: str) -> str:
    return OPTIMIZER_PREFIX + keyword.replace("_", "-")


def _literal(text: str) -> Any:
    """Return the value of a Python literal in a text, or the text itself if the text is not a literal.

    The words true, false and none are accepted in lower and upper case.

    >>> _literal("1e-6"), _literal("true"), _literal("(3.4, -4.8)"), _literal("bfloat16")
    (1e-06, True, (3.4, -4.8), 'bfloat16')
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # deep nesting raises the last two errors
        return text


def value_of(args: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag in the arguments, or None if the arguments do not contain the flag."""
    for index, arg in enumerate(args):
        if arg == flag and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith(f"{flag}="):
            return arg.split("=", 1)[1]
    return None
