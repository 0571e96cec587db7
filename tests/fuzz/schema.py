"""The commands and flags of the command line, read from the dataclasses that parse them.

A new command or flag appears here by itself.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from jaxcnn.cli import COMMANDS
from jaxcnn.cli.commands.completion import SECOND_COMMANDS
from jaxcnn.errors import UsageError
from jaxcnn.train.config import Keywords
from jaxcnn.train.optim.optimizers import OPTIMIZERS

POSITIONAL_MARKS = get_args(tyro.conf.Positional[str])[1:]


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag or a positional argument.

    Attributes:
      name: its name without dashes in front, such as "optimizer.learning-rate".
      hint: the type of its value.
      checks: functions `(name, value)` that raise `UsageError` for a value out of bounds.
      default: its default, or None if it has none.
      required: whether it has no default.
      positional: whether it is given by position.
      needs: flags with a value, one of which it needs beside it: an optimizer that has this keyword.
    """

    name: str
    hint: Any
    checks: tuple[Callable[[str, Any], None], ...] = ()
    default: Any = None
    required: bool = False
    positional: bool = False
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def option(self) -> str:
        """The name with its dashes: `--no-NAME` for a switch that is on by default."""
        return f"--no-{self.name}" if self.hint is bool and self.default is True else f"--{self.name}"

    def accepts(self, value: Any) -> bool:
        """Return whether the value is within the flag's bounds."""
        try:
            for check in self.checks:
                check(self.name, value)
        except (UsageError, TypeError, OverflowError):
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, such as `eval`, or a subcommand, such as `datasets show`.

    Attributes:
      name: its words, joined by a blank.
      flags: its flags and positional arguments.
    """

    name: str
    flags: tuple[Flag, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the name."""
        return tuple(self.name.split())


def read_commands() -> dict[str, Command]:
    """Return all commands and subcommands by name."""
    commands = {}
    for name in COMMANDS:
        module = importlib.import_module(f"jaxcnn.cli.commands.{name.replace('-', '_')}")
        for class_name, kind in inspect.getmembers(module, inspect.isclass):
            if class_name.endswith("Flags") and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
                second = class_name.removesuffix("Flags").lower()
                words = f"{name} {second}" if second in SECOND_COMMANDS.get(name, ()) else name
                commands[words] = Command(words, tuple(_flags(kind)))
    return dict(sorted(commands.items()))


def _flags(kind: Any, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags of a dataclass, and those of the dataclasses in its fields."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, marks = _unwrapped(hints[field.name])
        name = prefix + field.name.replace("_", "-")
        if hint == Keywords:
            for keyword, optimizers in _optimizer_keywords(kind).items():
                needs = tuple((f"--{prefix}name", optimizer) for optimizer in optimizers)
                yield Flag(prefix + keyword.replace("_", "-"), Any, needs=needs)
        elif dataclasses.is_dataclass(hint):
            yield from _flags(hint, f"{name}.")
        else:
            yield Flag(
                name,
                hint,
                checks=tuple(mark for mark in marks if mark not in POSITIONAL_MARKS and callable(mark)),
                default=field.default,
                required=_has_no_default(field),
                positional=any(mark in POSITIONAL_MARKS for mark in marks),
            )


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its annotations, and the annotations."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return kind, tuple(marks)
    return hint, ()


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    missing = (dataclasses.MISSING, tyro.MISSING)
    return any(field.default is value for value in missing) and field.default_factory is dataclasses.MISSING


def _optimizer_keywords(kind: Any) -> dict[str, list[str]]:
    """Return the optimizers that have a keyword, by keyword, without those that are fields of the dataclass."""
    fields = {field.name for field in dataclasses.fields(kind)}
    keywords = {keyword for optimizer in OPTIMIZERS.values() for keyword in optimizer.keywords()} - fields
    return {
        keyword: [name for name, optimizer in OPTIMIZERS.items() if keyword in optimizer.keywords()]
        for keyword in sorted(keywords)
    }
