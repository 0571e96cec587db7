"""`jaxcnn convert`: take published weights in, and give trained ones out."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from jaxcnn import train, weights
from jaxcnn.cli._flags import parse
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class Flags:
    """Convert weights between our names and torchvision's, and report what becomes of each array.

    FILE is a state dict of torchvision or timm (.pth, .safetensors), a file of ours, or hf:OWNER/NAME, which is
    downloaded from the Hugging Face hub. With --workdir the weights are those that a run has trained.
    """

    file: tyro.conf.Positional[str | None] = None
    """The weights to convert."""
    model: str | None = None
    """Architecture that the weights are of; a run's is known."""
    workdir: str | None = None
    """Folder of a run, in place of a file."""
    out: str | None = None
    """The .safetensors file to write; without it, only the report is made."""
    to: Literal["ours", "torchvision"] = "ours"
    """Whose names to write."""
    num_classes: int | None = None
    """Number of logits (default: as many as in the file)."""
    drop_head: bool = False
    """Leave the classifier in the file out, and put a fresh one in its place."""
    json: bool = False
    """Print the report as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "convert", args)
    if (flags.file is None) == (flags.workdir is None):
        raise UsageError("give either a FILE of weights or --workdir, the folder of a run")
    if flags.workdir is not None:
        if flags.num_classes is not None or flags.drop_head:
            raise UsageError("--num-classes and --drop-head are of files; a run's network is written as it is")
        run = train.load_run(flags.workdir)
        if flags.model not in (None, run.config.model):
            raise UsageError(f"the run in {flags.workdir} is of {run.config.model}, not {flags.model}")
        name, model, variables, image_shape = run.config.model, run.model, run.variables, run.preprocessing.image_shape
        rows, unused = _rows_out(name, variables, model, flags.to), []
    else:
        if flags.model is None:
            raise UsageError("give the architecture that the file is of with --model; `jaxcnn models` lists them")
        conversion = weights.convert(
            flags.model, flags.file or "", num_classes=flags.num_classes, drop_head=flags.drop_head
        )
        name, model, variables, image_shape = flags.model, None, conversion.variables, conversion.image_shape
        rows, unused = conversion.rows, conversion.unused
        if flags.to == "torchvision":
            rows = _rows_out(name, variables, None, "torchvision")
    if flags.out is not None:
        weights.save(flags.out, name, variables, to=flags.to, image_shape=image_shape, model=model)
    _print(rows, unused, flags)


def _rows_out(name: str, variables: object, model: object, to: str) -> list[weights.Row]:
    if to == "torchvision":
        return weights.to_torchvision(name, variables, model)[1]  # type: ignore[arg-type]
    return [
        weights.Row(key, key, array.shape, array.shape, "as it is") for key, array in weights.to_ours(variables).items()
    ]


def _print(rows: list[weights.Row], unused: list[str], flags: Flags) -> None:
    if flags.json:
        print(json.dumps({"arrays": [dataclasses.asdict(row) for row in rows], "unused": unused}, indent=2))
        return
    table = Table("from", "to", "shape", "becomes", "change")
    for row in rows:
        table.add_row(row.source, row.target, _size(row.source_shape), _size(row.shape), row.change)
    console = Console()
    console.print(table)
    left = f"; {len(unused)} in the file have no place here and were left out" if unused else ""
    written = f", written to {flags.out}" if flags.out else ""
    console.print(f"{len(rows):,} arrays{written}{left}", highlight=False)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
