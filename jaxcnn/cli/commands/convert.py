"""`jaxcnn convert`: convert published weights to jaxcnn, and trained weights to torchvision."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxcnn import weights
from jaxcnn.cli._flags import parse
from jaxcnn.cli._network_flags import RunOptions, open_run, source_note
from jaxcnn.errors import UsageError, printable
from jaxcnn.train.runtime.initial_weights import recordable


@dataclass(frozen=True, kw_only=True)
class Flags(RunOptions):
    """Convert weights between jaxcnn and torchvision, and print a report on each array.

    The last line prints the flags that prepare images as the weights expect them. The output file records them too.

    FILE is a file of torch.save or a safetensors file, with the names of torchvision, timm or jaxcnn; an index of
    several files; a folder of Hugging Face; or hf:OWNER/NAME, which is downloaded from the Hugging Face hub. FILE may
    be a checkpoint that holds more than the weights. Published weights have ids, such as timm:resnet50.a1_in1k and
    torchvision:ResNet50_Weights.IMAGENET1K_V2: give the id with --model, or as FILE. `jaxcnn models --ids` lists them.
    To convert the weights of a training run, give --workdir instead.
    """

    file: tyro.conf.Positional[str | None] = None
    """Weights to convert: a file, or hf:OWNER/NAME."""
    model: str | None = None
    """The architecture of the weights in a file, such as resnet50. Or the id of published weights: their file is
    downloaded if FILE is missing. With --workdir: your own model of the run, as FILE.py:NAME or MODULE:NAME, where NAME
    is a Linen module, or a class or function that returns one."""
    workdir: str | None = None
    """Run directory whose trained weights to convert, instead of a file."""
    out: str | None = None
    """Output file, .safetensors (default: print the report only)."""
    to: Literal["ours", "torchvision", "timm"] = "ours"
    """Array names and layouts to write: ours (those of jaxcnn), torchvision or timm."""
    num_classes: int | None = None
    """Number of logits (default: the number of classes in the file)."""
    drop_head: bool = False
    """Replace the classifier in the file by a newly initialized one."""
    part: str | None = None
    """Part of the file to read, such as model_ema (default: the part that fits the model best)."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class _Source:
    """Weights to convert, and the report on them.

    Attributes:
      name: name of the architecture.
      variables: `{"params": ..., "batch_stats": ...}`.
      image_shape: `(H, W, C)` of the images.
      preprocessing: preparation of the images, if it is known.
      rows: report on each array.
      unused: names of arrays in a file that the model does not need.
      model: the model of a run.
      note: the checkpoint of a run, or the part of a file.
    """

    name: str
    variables: dict[str, Any]
    image_shape: tuple[int, ...]
    preprocessing: weights.Preprocessing | None
    rows: list[weights.Row]
    unused: list[str]
    model: nn.Module | None = None
    note: str = ""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn convert`."""
    flags = parse(Flags, "convert", args)
    if flags.file is None and flags.workdir is None and weights.is_published(flags.model or ""):
        flags = dataclasses.replace(flags, file=flags.model)
    if (flags.file is None) == (flags.workdir is None):
        given = "neither" if flags.file is None else "both"
        raise UsageError(f"{given} of FILE and --workdir given. Give either a weight file or a run directory.")
    source = _of_file(flags) if flags.workdir is None else _of_run(flags, flags.workdir)
    if flags.out is not None:
        try:
            weights.save(
                flags.out,
                source.name,
                source.variables,
                to=flags.to,
                image_shape=source.image_shape,
                model=source.model,
                preprocessing=source.preprocessing,
            )
        except OSError as error:  # such as a name that is too long
            raise UsageError(f"{flags.out} cannot be written: {error.strerror}. Give another file.") from error
    _print(source, flags)


def _of_run(flags: Flags, folder: str) -> _Source:
    """Return the weights of a checkpoint of a run."""
    if flags.num_classes is not None or flags.drop_head or flags.part is not None:
        raise UsageError("--num-classes, --drop-head and --part apply only to files. Omit them with --workdir.")
    trained = open_run(folder, flags)
    around = trained.preprocessing
    return _Source(
        name=trained.name,
        variables=trained.variables,
        image_shape=around.image_shape,
        preprocessing=recordable(around),
        rows=_output_rows(trained.name, trained.variables, trained.model, flags.to),
        unused=[],
        model=trained.model,
        note=source_note(trained, flags),
    )


def _of_file(flags: Flags) -> _Source:
    """Return the weights in a file."""
    if flags.model is None:
        raise UsageError("the architecture of the file is missing. Give it with --model; see `jaxcnn models`.")
    if flags.checkpoint is not None:
        raise UsageError("--checkpoint applies only to runs. Omit it with a file.")
    known = weights.published(flags.model) if weights.is_published(flags.model) else None
    name = flags.model if known is None else known.model
    conversion = weights.convert(
        name, flags.file or "", num_classes=flags.num_classes, drop_head=flags.drop_head, part=flags.part
    )
    rows = conversion.rows
    if flags.to != "ours":
        rows = _output_rows(name, conversion.variables, None, flags.to)
    return _Source(
        name,
        conversion.variables,
        conversion.image_shape,
        conversion.preprocessing if known is None else known.preprocessing,
        rows,
        conversion.unused,
        note=_part_note(conversion),
    )


def _part_note(conversion: weights.Conversion) -> str:
    """Return a note on the part of the file that was read and on other parts that fit, or "" for a whole file."""
    others = ", ".join(map(repr, conversion.other_parts[:6]))
    read = f"read: {conversion.part!r} in the file" if conversion.part or others else ""
    return f"{read}; it also has {others}, which --part chooses" if others else read


def _output_rows(name: str, variables: dict[str, Any], model: nn.Module | None, to: str) -> list[weights.Row]:
    """Return the report on the conversion from variables to the arrays of the output file."""
    if to != "ours":
        return (weights.to_torchvision if to == "torchvision" else weights.to_timm)(name, variables, model)[1]
    return [
        weights.Row(key, key, array.shape, array.shape, "unchanged")
        for key, array in weights.to_ours(variables).items()
    ]


def _print(source: _Source, flags: Flags) -> None:
    """Print the report on the arrays, and their checkpoint."""
    if flags.json:
        arrays = [dataclasses.asdict(row) for row in source.rows]
        checkpoint = {"source": source.note} if source.note else {}
        known = None if source.preprocessing is None else dataclasses.asdict(source.preprocessing)
        report = {"arrays": arrays, "unused": source.unused, "preprocessing": known, **checkpoint}
        print(json.dumps(report, indent=2))
        return
    table = Table("source", "target", "source shape", "target shape", "change")
    for row in source.rows:
        names = (escape(row.source), escape(row.target))
        table.add_row(*names, _format_shape(row.source_shape), _format_shape(row.shape), row.change)
    Console().print(table)
    written = f", written to {flags.out}" if flags.out else ""
    ignored = f"; {len(source.unused)} other arrays in the file were ignored" if source.unused else ""
    print(printable(f"{len(source.rows):,} arrays{written}{ignored}"))
    known = "not recorded in the file" if source.preprocessing is None else _format_preprocessing(source.preprocessing)
    print(printable(f"preprocessing: {known}"))
    if source.note:
        print(printable(source.note))


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
