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

from jaxcnn import train, weights
from jaxcnn.cli._flags import parse
from jaxcnn.errors import UsageError
from jaxcnn.train.runtime.initial_weights import recordable


@dataclass(frozen=True)
class Flags:
    """Convert weights between jaxcnn and torchvision, and print a report on each array.

    The last line has the flags that prepare images as the weights expect them. The file that is written records them.

    FILE is a state dict of torchvision or timm (.pth, .safetensors), a .safetensors file of jaxcnn, or hf:OWNER/NAME,
    which is downloaded from the Hugging Face hub. To convert the weights of a training run, give --workdir instead.
    """

    file: tyro.conf.Positional[str | None] = None
    """Weights to convert: a file, or hf:OWNER/NAME."""
    model: str | None = None
    """Architecture of the weights, such as resnet50; required with a file."""
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
    if flags.workdir is not None:
        if flags.num_classes is not None or flags.drop_head:
            raise UsageError("--num-classes and --drop-head apply only to files. Omit them with --workdir.")
        run = train.load_run(flags.workdir)
        if flags.model not in (None, run.config.model):
            raise UsageError(f"the run in {flags.workdir} trained {run.config.model}, not {flags.model}. Omit --model.")
        name, model, variables, image_shape = run.config.model, run.model, run.variables, run.preprocessing.image_shape
        preprocessing = recordable(run.preprocessing)
        rows, unused = _output_rows(name, variables, model, flags.to), []
    else:
        if flags.model is None:
            raise UsageError("the architecture of the file is missing. Give it with --model; see `jaxcnn models`.")
        conversion = weights.convert(
            flags.model, flags.file or "", num_classes=flags.num_classes, drop_head=flags.drop_head
        )
        name, model, variables, image_shape = flags.model, None, conversion.variables, conversion.image_shape
        preprocessing, rows, unused = conversion.preprocessing, conversion.rows, conversion.unused
        if flags.to == "torchvision":
            rows = _output_rows(name, variables, None, "torchvision")
    if flags.out is not None:
        weights.save(
            flags.out,
            name,
            variables,
            to=flags.to,
            image_shape=image_shape,
            model=model,
            preprocessing=preprocessing,
        )
    _print(rows, unused, preprocessing, flags)


def _output_rows(name: str, variables: object, model: object, to: str) -> list[weights.Row]:
    """Return the report on the conversion from variables to the arrays of the output file."""
    if to == "torchvision":
        return weights.to_torchvision(name, variables, model)[1]  # type: ignore[arg-type]
    return [
        weights.Row(key, key, array.shape, array.shape, "unchanged")
        for key, array in weights.to_ours(variables).items()
    ]


def _print(
    rows: list[weights.Row], unused: list[str], preprocessing: weights.Preprocessing | None, flags: Flags
) -> None:
    if flags.json:
        report = {
            "arrays": [dataclasses.asdict(row) for row in rows],
            "unused": unused,
            "preprocessing": None if preprocessing is None else dataclasses.asdict(preprocessing),
        }
        print(json.dumps(report, indent=2))
        return
    table = Table("source", "target", "source shape", "target shape", "change")
    for row in rows:
        names = (escape(row.source), escape(row.target))  # names in a file may look like rich's markup
        table.add_row(*names, _format_shape(row.source_shape), _format_shape(row.shape), row.change)
    console = Console()
    console.print(table)
    written = f", written to {flags.out}" if flags.out else ""
    ignored = f"; {len(unused)} other arrays in the file were ignored" if unused else ""
    console.print(f"{len(rows):,} arrays{written}{ignored}", highlight=False, markup=False)
    known = "not recorded in the file" if preprocessing is None else _format_preprocessing(preprocessing)
    console.print(f"preprocessing: {known}", highlight=False, markup=False)


def _format_preprocessing(preprocessing: weights.Preprocessing) -> str:
    """Return the flags of `jaxcnn train` that prepare images as the weights expect them."""
    height, width = preprocessing.image_size
    size = f"{height}" if height == width else f"{height} {width}"
    # A number of pixels determines the crop.
    crop = preprocessing.crop_fraction if isinstance(preprocessing.resize, str) else None
    crop_flag = "" if crop is None else f" --crop-fraction {crop:.6g}"
    return (
        f"{preprocessing.normalization_flags()} --image-size {size} --resize {preprocessing.resize}{crop_flag} "
        f"({preprocessing.interpolation})"
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
