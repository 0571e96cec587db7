"""Flags from dataclasses, by tyro; a mistake among them is one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from jaxcnn.errors import UsageError

T = TypeVar("T")


def parse(flags: type[T], command: str, args: Sequence[str], default: T | None = None) -> T:
    """The flags of a command, as an instance of the dataclass `flags`.

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
    # Where the box is made of dashes, a title and the way to more help stand on either side of what is wrong.
    said = re.split(r"\s*-{10,}\s*", " ".join(lines[:rule]))
    # Of what is missing tyro also says the type, and once more that it is required.
    error = re.sub(r"\bSTR |\.? ?\(required\)", "", said[min(1, len(said) - 1)]).rstrip(".")
    meant = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(lines))
    hint = f"did you mean {meant.group(1)}?" if meant else f"see jaxcnn {command} --help"
    return f"{error}; {hint}"
