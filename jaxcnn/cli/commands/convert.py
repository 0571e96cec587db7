"""`jaxcnn convert`: convert published weights to jaxcnn, and trained weights to torchvision or timm."""

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
    """Convert weights between jaxcnn, torchvision and timm, and print a report on each array.

    The output ends with the flags of `jaxcnn train` that prepare images as the weights expect. The output file records
    this preprocessing, too.

    FILE is a file of torch.save or a safetensors file, with the array names of torchvision, timm or jaxcnn. FILE can
    also be an index of several files, a folder of Hugging Face, or hf:OWNER/NAME, which is downloaded from the Hugging
    Face hub. FILE may be a checkpoint with other data besides the weights. Published weights have ids, such as
    timm:resnet50.a1_in1k and torchvision:ResNet50_Weights.IMAGENET1K_V2. Give an id with --model or as FILE. `jaxcnn
    models --ids` lists the ids. To convert the weights of a training run, give --workdir instead of FILE.
    """

    file: tyro.conf.Positional[str | None] = None
    """Weights to convert: a file, an id of published weights, or hf:OWNER/NAME."""
    model: str | None = None
    """The architecture of the weights in FILE, such as resnet50, or the id of published weights. Without FILE, the file
    of the published weights is downloaded. With --workdir: your own model that the run has trained, FILE.py:NAME or
    MODULE:NAME. NAME is a Linen module, or a class or function that returns a Linen module."""
    workdir: str | None = None
    """Run directory. The command converts the trained weights of this run instead of a file."""
    out: str | None = None
    """Output file, which must end in .safetensors (default: print the report only)."""
    to: Literal["ours", "torchvision", "timm"] = "ours"
    """Format of the array names and layouts in the output file: ours (the format of jaxcnn), torchvision or timm."""
    num_classes: int | None = None
    """Number of logits (default: the number of classes in the file)."""
    drop_head: bool = False
    """Replace the classifier in the file by a newly initialized classifier."""
    part: str | None = None
    """Part of the checkpoint file to read, such as model_ema (default: the part that fits the model best)."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class _Source:
    """Weights to convert, and the report on their conversion.

    Attributes:
      name: name of the architecture.
      variables: variables of the model, `{"params": ..., "batch_stats": ...}`.
      image_shape: shape `(H, W, C)` of the images.
      preprocessing: how images are prepared for these weights, or None if this is unknown.
      rows: rows of the report, one for each array.
      unused: names of arrays in the file that the model does not need.
      model: Linen module of the run, or None if the weights come from a file.
      note: line that names the source of the weights: the checkpoint of the run, or the part of the file.
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
        given = "neither FILE nor --workdir is given" if flags.file is None else "both FILE and --workdir are given"
        raise UsageError(f"{given}. Give either FILE or --workdir.")
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
        except OSError as error:  # for example, the name is too long
            raise UsageError(f"{flags.out} cannot be written: {error.strerror}. Give another file.") from error
    _print(source, flags)


def _of_run(flags: Flags, folder: str) -> _Source:
    """Return the weights of a checkpoint of a run."""
    if flags.num_classes is not None or flags.drop_head or flags.part is not None:
        raise UsageError(
            "--num-classes, --drop-head and --part apply only to weight files. Omit these flags if you give --workdir."
        )
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
        raise UsageError("the architecture of the weights in FILE is missing. Give --model; see `jaxcnn models`.")
    if flags.checkpoint is not None:
        raise UsageError("--checkpoint applies only to a run. Omit --checkpoint if you give FILE.")
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
    """Return a note that names the part of the file that was read, and the other parts that fit the model.

    The note is "" if the whole file was read.
    """
    others = ", ".join(map(repr, conversion.other_parts[:6]))
    read = f"read: {conversion.part!r} in the file" if conversion.part or others else ""
    return f"{read}; other parts that fit: {others} (choose a part with --part)" if others else read


def _output_rows(name: str, variables: dict[str, Any], model: nn.Module | None, to: str) -> list[weights.Row]:
    """Return one row for each array of the output file. The row names the variable that the array comes from."""
    if to != "ours":
        return (weights.to_torchvision if to == "torchvision" else weights.to_timm)(name, variables, model)[1]
    return [
        weights.Row(key, key, array.shape, array.shape, "unchanged")
        for key, array in weights.to_ours(variables).items()
    ]


def _print(source: _Source, flags: Flags) -> None:
    """Print the report on the arrays, the preprocessing, and the note on the source, as a table or as JSON."""
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
    """Return the flags of `jaxcnn train` that prepare images as the weights expect, as one string."""
    height, width = preprocessing.image_size
    size = f"{height}" if height == width else f"{height} {width}"
    # If --resize is a number of pixels, --resize and --image-size determine the crop.
    crop = preprocessing.crop_fraction if isinstance(preprocessing.resize, str) else None
    crop_flag = "" if crop is None else f" --crop-fraction {crop:.6g}"
    return (
        f"{preprocessing.normalization_flags()} --image-size {size} --resize {preprocessing.resize}{crop_flag} "
        f"({preprocessing.interpolation})"
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
