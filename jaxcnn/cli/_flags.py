"""Parse the flags of a command into a dataclass, with tyro. Errors are one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from jaxcnn.errors import UsageError, shortened

T = TypeVar("T")


def parse(flags: type[T], command: str, args: Sequence[str], default: T | None = None) -> T:
    """Return the flags of a command as an instance of the dataclass `flags`.

    Raises:
      UsageError: If a flag is unknown or its value has the wrong type. The message is one line.
    """
    said = io.StringIO()
    extra: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                flags,
                prog=f"jaxcnn {command}",
                args=list(args),
                # Fields that no flag can set, such as `OptimizerConfig.options`, are not shown.
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.SuppressFixed),
                **extra,
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise UsageError(_condense(said.getvalue(), command)) from None


def _condense(message: str, command: str) -> str:
    """Return tyro's message in one line: the error, and the flag that tyro suggests."""
    lines = [line.strip(" │") for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((index for index, line in enumerate(lines) if set(line) == {"─"}), len(lines))
    # Where the box is made of dashes, the error stands between a title and a hint at --help.
    said = re.split(r"\s*-{10,}\s*", " ".join(lines[:rule]))
    # For a missing argument tyro adds its type, and "(required)".
    # A value of dashes looks like the box too, and may leave nothing between.
    chosen = next((part for part in (*said[1:], *said) if part.strip()), "invalid arguments")
    error = re.sub(r"\bSTR |\.? ?\(required\)|\[/?bold\]", "", chosen).rstrip(".")
    error = re.sub(r"\. Got errors:.*", "", error)  # one for each type of a union
    meant = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(lines))
    hint = f"did you mean {meant.group(1)}?" if meant else f"see jaxcnn {command} --help"
    return f"{shortened(error)}; {hint}"
