"""`jaxcnn completion bash` (or zsh): print a script that completes commands, flags and names in a shell.

    eval "$(jaxcnn completion bash)"

The script contains all words that it completes, so that completion does not start Python.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from jaxcnn import data, models
from jaxcnn.cli import COMMANDS
from jaxcnn.cli._flags import parse
from jaxcnn.train.config import Keywords, OptimizerConfig
from jaxcnn.train.losses import LOSSES
from jaxcnn.train.optim.optimizers import OPTIMIZERS
from jaxcnn.train.optim.schedules import SCHEDULES

# Names of the subcommands of each command.
SECOND_COMMANDS = {"datasets": ("show", "stats"), "benchmark": ("compare",)}

Values = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Flags:
    """Print a script that completes commands, flags and names in a shell. Use: eval "$(jaxcnn completion bash)"."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Shell for which to print the completion script."""


def run(args: Sequence[str]) -> None:
    print(script(parse(Flags, "completion", args).shell))


def script(shell: str) -> str:
    """Return the completion script for a shell, "bash" or "zsh". zsh runs the bash script with `bashcompinit`."""
    offers, values = [], []
    for command in COMMANDS:
        flags = dict(_flags_of(command))
        takes_value = {name: choices for name, choices in flags.items() if choices is not None}
        first = [*SECOND_COMMANDS.get(command, ()), *_positional_choices(command)]
        offers.append(f'                {command}) words="{" ".join([*first, *flags, "--help"])}" ;;')
        values += [f'            "{command} {name}") words="{" ".join(v)}" ;;' for name, v in takes_value.items()]
    return "\n".join(
        [
            *(
                ["autoload -U +X compinit && compinit", "autoload -U +X bashcompinit && bashcompinit"]
                * (shell == "zsh")
            ),
            "_jaxcnn() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        words="{" ".join(COMMANDS)} --help --version"',
            "    else",
            '        case "${COMP_WORDS[1]} $previous" in',
            *values,
            '            *) case "${COMP_WORDS[1]}" in',
            *offers,
            "            esac ;;",
            "        esac",
            "    fi",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o bashdefault -o default -F _jaxcnn jaxcnn",  # complete file names if no word matches
        ]
    )


def _dataclasses_of(command: str) -> list[Any]:
    module = importlib.import_module(f"jaxcnn.cli.commands.{command.replace('-', '_')}")
    return [
        kind
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if name.endswith("Flags") and dataclasses.is_dataclass(kind)
    ]


def _flags_of(command: str) -> Iterator[tuple[str, Values | None]]:
    """Yield each flag of a command with its known values. The values are None for a switch, which has no value."""
    for kind in _dataclasses_of(command):
        yield from _flags(kind, command)


def _flags(kind: Any, command: str, prefix: str = "") -> Iterator[tuple[str, Values | None]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        name = prefix + _name_of_flag(hint, field.name)
        if hint is OptimizerConfig:
            yield from _flags(hint, command, f"{name}.")
            yield from _optimizer_keywords(f"{name}.")
        elif _is_fixed(hint):
            continue
        elif dataclasses.is_dataclass(hint):
            yield from _flags(hint, command, f"{name}.")
        elif hint is bool:
            flag = _name_of_flag(hint, field.name)
            yield f"--{prefix}no-{flag}" if field.default is True else f"--{name}", None
        elif not _is_positional(hint):
            yield f"--{name}", _names().get(name) or _choices(hint)


def _name_of_flag(hint: Any, field: str) -> str:
    """Return the flag name of a field: the name in the type hint, such as "for", or else the name of the field."""
    given = [getattr(mark, "name", None) for mark in get_args(hint)[1:]] if get_origin(hint) is Annotated else []
    return next((name for name in given if isinstance(name, str)), field.replace("_", "-"))


def _optimizer_keywords(prefix: str) -> Iterator[tuple[str, Values]]:
    """Yield a flag for each keyword argument of the optimizers that is not a field of `OptimizerConfig`."""
    fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
    for keyword in sorted({keyword for optimizer in OPTIMIZERS.values() for keyword in optimizer.keywords()} - fields):
        yield f"--{prefix}{keyword.replace('_', '-')}", ()


def _is_fixed(hint: Any) -> bool:
    """Return whether a field with this type hint has no flag. Such a field contains the keywords of the optimizer."""
    return get_origin(hint) is Annotated and get_args(hint)[0] == Keywords


def _positional_choices(command: str) -> Values:
    hints = [hint for kind in _dataclasses_of(command) for hint in get_type_hints(kind, include_extras=True).values()]
    names = {"summary": models.list_models(), "prepare": _dataset_names()}.get(command, [])
    return [*names, *(choice for hint in hints if _is_positional(hint) for choice in _choices(get_args(hint)[0]))]


def _is_positional(hint: Any) -> bool:
    marks = get_args(tyro.conf.Positional[str])[1:]
    return get_origin(hint) is Annotated and any(mark in marks for mark in get_args(hint)[1:])


def _choices(hint: Any) -> Values:
    """Return the words that a type hint allows: the values of a `Literal`, including a `Literal` inside a union."""
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    return [word for part in get_args(hint) for word in _choices(part)] if get_args(hint) else []


def _dataset_names() -> Values:
    """Return the names of datasets, except names that a shell would split into several words."""
    return [name for name in data.list_datasets() if re.fullmatch(r"[\w./-]+", name)]


def _names() -> dict[str, Values]:
    return {
        "model": models.list_models(),
        "dataset": _dataset_names(),
        "optimizer.name": list(OPTIMIZERS),
        "schedule.name": list(SCHEDULES),
        "loss": list(LOSSES),
    }
