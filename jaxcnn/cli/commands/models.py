"""`jaxcnn models`: list the models."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jaxcnn import models
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import print_rows
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class Flags:
    """List the registered models and their papers."""

    pattern: tyro.conf.Positional[str] = "*"
    """Shell pattern of model names, such as 'resnet*'."""
    json: bool = False
    """Print the list as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "models", args)
    rows = [{"name": name, "paper": models.paper(name)} for name in models.list_models(flags.pattern)]
    if not rows:
        raise UsageError(f"no model matches {flags.pattern!r}; run `jaxcnn models` to list all models")
    print_rows(rows, as_json=flags.json)
