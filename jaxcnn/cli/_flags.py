"""Parse the flags of a command into a dataclass with tyro, and report errors in one line."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from jaxcnn.errors import UsageError, shortened

T = TypeVar("T")

# A default that a docstring states in words, such as " (default: the setting of the run)".
_STATED_DEFAULT = re.compile(r"\s*\(default: [^()]*\)")


def parse(flags: type[T], command: str, args: Sequence[str], default: T | None = None) -> T:
    """Return the flags of a command as an instance of the dataclass `flags`.

    Args:
      flags: the dataclass, with a field and a docstring for each flag.
      command: name of the command, such as "train".
      args: arguments of the command.
      default: instance of `flags` with the values of the flags that `args` does not contain. Default: the defaults of
        the dataclass.

    Raises:
      UsageError: if a flag is unknown or its value has the wrong type. The message is one line.
    """
    said, shown = io.StringIO(), _Shown()
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            return tyro.cli(
                flags,
                prog=f"jaxcnn {command}",
                args=list(args),
                # Fields that no flag can set, such as `OptimizerConfig.options`, are not shown.
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.SuppressFixed),
                registry=_registry,
                description=_paragraphs(inspect.getdoc(flags) or ""),
                **extra,
            )
    except SystemExit as exit:
        if not exit.code:
            print(_wrapped(shown.text(), shutil.get_terminal_size().columns), end="")
            raise
        raise UsageError(_condense(said.getvalue(), command)) from None


class _Shown(io.TextIOWrapper):
    """A buffer for text that tyro prints to standard output, with the encoding of standard output.

    tyro colors the text if standard output is a terminal, and draws boxes if the encoding has box characters.
    """

    def __init__(self) -> None:
        self._stdout = sys.stdout
        super().__init__(io.BytesIO(), encoding=getattr(self._stdout, "encoding", None), errors="backslashreplace")

    def isatty(self) -> bool:
        return self._stdout is not None and self._stdout.isatty()

    def text(self) -> str:
        self.seek(0)
        return self.read()


def _paragraphs(docstring: str) -> str:
    """Return a docstring with one line for each paragraph."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _wrapped(text: str, width: int) -> str:
    """Wrap the lines of a help text that are longer than the terminal. tyro wraps only the lines in its boxes."""
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = re.sub("\n{3,}", "\n\n", text).split("\n")
    # A line of a box starts with a corner or edge character, or with the escape code of a color.
    is_prose = [len(line) > width and line[0] not in "│╭╰|+\x1b" for line in lines]
    return "\n".join(wrapper.fill(line) if prose else line for line, prose in zip(lines, is_prose, strict=True))


def _describe(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """Return the flags of a dataclass, with help texts from the docstrings below its fields.

    By default, tyro keeps the line breaks of a docstring, and prints a default value that the docstring already states.
    """
    if not dataclasses.is_dataclass(info.type):
        return None
    texts = _texts_below_fields(info.type)
    hints = get_type_hints(info.type, include_extras=True)
    flags: list[tyro.constructors.StructFieldSpec] = []
    for field in dataclasses.fields(info.type):
        initial = tyro.MISSING if field.default is dataclasses.MISSING else field.default
        default = getattr(info.default, field.name, initial)
        text: str = texts.get(field.name, "")
        kind: Any = hints[field.name]
        is_group = dataclasses.is_dataclass(hints[field.name])
        if not is_group:
            text, hint = _with_default(text, default)
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint=hint)]
        flags.append(tyro.constructors.StructFieldSpec(field.name, kind, default, helptext=text or None))
    return tyro.constructors.StructConstructorSpec(info.type, tuple(flags))


def _with_default(text: str, default: Any) -> tuple[str, str | None]:
    """Return the help text of a flag, and the hint that tyro prints after the text.

    If the hint is None, tyro prints the default value. If the text already states the default in words, the hint is "".
    If `default` differs from the default that the text states, the statement is removed from the text.

    >>> _with_default("Stop after this many evaluations (default: never).", None)
    ('Stop after this many evaluations (default: never).', '')
    >>> _with_default("Stop after this many evaluations (default: never).", 5)
    ('Stop after this many evaluations.', None)
    """
    if isinstance(default, bool):
        return text, "(on by default; this flag turns it off)" if default else ""
    if default is tyro.MISSING:
        return text, ""  # tyro adds "(required)"
    if default is None or default in ((), ""):
        return text, "" if _STATED_DEFAULT.search(text) else "(default: none)"
    return _STATED_DEFAULT.sub("", text), None


@functools.cache
def _texts_below_fields(kind: Any) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and of its base classes. Each docstring becomes one line."""
    texts: dict[str, str] = {}
    bases: list[Any] = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
    for base in bases:
        definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field, below in itertools.pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                texts[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


_registry = tyro.constructors.ConstructorRegistry()
_registry.struct_rule(_describe)


def _condense(message: str, command: str) -> str:
    """Return tyro's error message in one line: the error, and the flag that tyro suggests."""
    lines = [line.strip(" │") for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((index for index, line in enumerate(lines) if set(line) == {"─"}), len(lines))
    # If the box is drawn with dashes, the error is between a title and a hint about --help.
    said = re.split(r"\s*-{10,}\s*", " ".join(lines[:rule]))
    # A flag value that consists of dashes looks like a border of the box, so a part of the message may be empty.
    chosen = next((part for part in (*said[1:], *said) if part.strip()), "invalid arguments")
    # For a missing argument, tyro adds the type of the argument and "(required)".
    error = re.sub(r"\bSTR |\.? ?\(required\)|\[/?bold\]", "", chosen).rstrip(".")
    error = re.sub(r"\. Got errors:.*", "", error)  # tyro lists an error for each type of a union
    meant = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(lines))
    hint = f"did you mean {meant.group(1)}?" if meant else f"see jaxcnn {command} --help"
    return f"{shortened(error)}; {hint}"
