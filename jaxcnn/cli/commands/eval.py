"""`jaxcnn eval`: evaluate a run on the test set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jaxcnn import train
from jaxcnn.cli._flags import parse


@dataclass(frozen=True)
class Flags:
    """Evaluate the latest checkpoint of a run on the whole test set."""

    workdir: str
    """Run directory."""
    json: bool = False
    """Print the result as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "eval", args)
    values = train.evaluate_run(Path(flags.workdir).expanduser())
    if flags.json:
        print(json.dumps(values, indent=2))
        return
    table = Table("model", "dataset", "step", "test accuracy", "test loss", "test images")
    table.add_row(
        values["model"],
        values["dataset"],
        f"{values['step']:,}",
        f"{values['test_accuracy']:.2%}",
        f"{values['test_loss']:.4f}",
        f"{values['test_examples']:,}",
    )
    Console().print(table)
