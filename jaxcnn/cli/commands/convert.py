"""`jaxcnn convert`: convert published weights to jaxcnn, and trained weights to torchvision."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxcnn import weights
from jaxcnn.cli._flags import parse
from jaxcnn.cli._network_flags import RunOptions, open_run, source_note
from jaxcnn.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Flags(RunOptions):
    """Convert weights between jaxcnn and torchvision, and print a report on each array.

    FILE is a state dict of torchvision or timm (.pth, .safetensors), a .safetensors file of jaxcnn, or hf:OWNER/NAME,
    which is downloaded from the Hugging Face hub. To convert the weights of a training run, give --workdir instead.
    """

    file: tyro.conf.Positional[str | None] = None
    """Weights to convert: a file, or hf:OWNER/NAME."""
    model: str | None = None
    """With a file: the architecture of the weights, such as resnet50. With --workdir: own model of the run, as
    FILE.py:NAME or MODULE:NAME, where NAME is a Linen module, or a class or function that returns one."""
    workdir: str | None = None
    """Run directory whose trained weights to convert, instead of a file."""
    out: str | None = None
    """.safetensors file to write (default: print the report only)."""
    to: Literal["ours", "torchvision"] = "ours"
    """Array names and layouts to write: ours (those of jaxcnn) or torchvision."""
    num_classes: int | None = None
    """Number of logits (default: the number of classes in the file)."""
    drop_head: bool = False
    """Replace the classifier in the file by a newly initialized one."""
    json: bool = False
    """Print the report as JSON."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn convert`."""
    flags = parse(Flags, "convert", args)
    if (flags.file is None) == (flags.workdir is None):
        given = "neither" if flags.file is None else "both"
        raise UsageError(f"{given} of FILE and --workdir given. Give either a weight file or a run directory.")
    note = ""
    if flags.workdir is not None:
        if flags.num_classes is not None or flags.drop_head:
            raise UsageError("--num-classes and --drop-head apply only to files. Omit them with --workdir.")
        run = open_run(flags.workdir, flags)
        name, model, variables, image_shape = run.name, run.model, run.variables, run.preprocessing.image_shape
        rows, unused, note = _output_rows(name, variables, model, flags.to), [], source_note(run, flags)
    else:
        if flags.model is None:
            raise UsageError("the architecture of the file is missing. Give it with --model; see `jaxcnn models`.")
        if flags.checkpoint != "latest":
            raise UsageError("--checkpoint applies only to runs. Omit it with a file.")
        conversion = weights.convert(
            flags.model, flags.file or "", num_classes=flags.num_classes, drop_head=flags.drop_head
        )
        name, model, variables, image_shape = flags.model, None, conversion.variables, conversion.image_shape
        rows, unused = conversion.rows, conversion.unused
        if flags.to == "torchvision":
            rows = _output_rows(name, variables, None, "torchvision")
    if flags.out is not None:
        try:
            weights.save(flags.out, name, variables, to=flags.to, image_shape=image_shape, model=model)
        except OSError as error:  # such as a name that is too long
            raise UsageError(f"{flags.out} cannot be written: {error.strerror}. Give another file.") from error
    _print(rows, unused, flags, note)


def _output_rows(name: str, variables: object, model: object, to: str) -> list[weights.Row]:
    """Return the report on the conversion from variables to the arrays of the output file."""
    if to == "torchvision":
        return weights.to_torchvision(name, variables, model)[1]  # type: ignore[arg-type]
    return [
        weights.Row(key, key, array.shape, array.shape, "unchanged")
        for key, array in weights.to_ours(variables).items()
    ]


def _print(rows: list[weights.Row], unused: list[str], flags: Flags, note: str) -> None:
    """Print the report on the arrays, and a note on the network that they are from."""
    if flags.json:
        source = {"source": note} if note else {}
        arrays = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"arrays": arrays, "unused": unused, **source}, indent=2))
        return
    table = Table("source", "target", "source shape", "target shape", "change")
    for row in rows:
        names = (escape(row.source), escape(row.target))
        table.add_row(*names, _format_shape(row.source_shape), _format_shape(row.shape), row.change)
    console = Console()
    console.print(table)
    written = f", written to {flags.out}" if flags.out else ""
    ignored = f"; {len(unused)} other arrays in the file were ignored" if unused else ""
    console.print(f"{len(rows):,} arrays{written}{ignored}", highlight=False, markup=False)
    if note:
        console.print(note, highlight=False, markup=False)


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
