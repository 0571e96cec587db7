"""`jaxcnn compile`: report what a training step costs on TPUs and GPUs that this machine does not have."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxcnn import aot, train
from jaxcnn.aot.compiling import DEFAULT_TIMEOUT, images_of
from jaxcnn.aot.images import Images
from jaxcnn.cli._output import plain
from jaxcnn.cli._recipe import recipe_defaults, values_of
from jaxcnn.cli._stage_progress import StageProgress
from jaxcnn.cli._training_flags import parse_training, value_of
from jaxcnn.errors import RunError, UsageError, printable
from jaxcnn.local_path import local_folder
from jaxcnn.measure.columns import format_bytes
from jaxcnn.train.config import checks

REPORTS = "reports.json"

WIDTH = 100
"""Maximum width of a table in characters."""


@dataclass(frozen=True)
class Flags(train.Config):
    """Compile the training step for TPUs and GPUs that this machine does not have, and report its cost on each chip.

    The step does not run. The report has memory, FLOPs, bytes, collective operations, and an upper bound of the
    throughput. All flags of `jaxcnn train` that configure the training step apply, too. Without --dataset, the images
    have the default shape of the model.
    """

    targets: Annotated[str, tyro.conf.arg(name="for", metavar="TARGET[,TARGET...]")] = ""
    """Chips to compile for (this flag is required). TPU slices: v4, v5e, v5p or v6e with a shape, such as v5e:2x4 or
    v5p:2x2x2. GPUs: a100, h100, h200 or b200, with a number for several GPUs, such as h100:8. Or cpu."""
    batch_size: Annotated[int | Literal["full", "auto"], checks.batch_size] = 64  # type: ignore[override]
    """Images in a step, over all chips: a number, full (the whole training set), or auto (the largest batch that fits
    each chip)."""
    per_device: bool = False
    """Make --batch-size the number of images on each chip instead of the number over all chips."""
    compiler_effort: Literal["O1", "default"] = "O1"
    """Optimization level of the TPU compiler. O1 is fast. default is the level of a training run, which takes minutes
    for deep models."""
    timeout: float = DEFAULT_TIMEOUT
    """Time limit of each compilation in seconds."""
    config: str | None = None
    """Python file that defines `config = jaxcnn.train.Config(...)`. Flags override the values in this file."""
    json: bool = False
    """Print the reports as JSON; all other output goes to standard error."""
    out: str | None = None
    """Write reports.json, roofline.png and scaling.png to this folder."""


def run(args: Sequence[str]) -> None:
    flags = parse_training(Flags, "compile", args, recipe_defaults(Flags, args))
    if not flags.targets:
        raise UsageError("no target given. Give one or more targets with --for, such as --for v5e:2x4,h100:8.")
    targets = aot.parse_targets(flags.targets)
    if flags.timeout <= 0:
        raise UsageError(f"--timeout must be a positive number: {flags.timeout:g}. Give a number of seconds.")
    automatic = flags.batch_size == "auto"
    if automatic and flags.per_device:
        raise UsageError("--batch-size auto and --per-device are mutually exclusive. Omit --per-device.")
    values = values_of(flags)
    config = train.Config(**{**values, "batch_size": train.Config.batch_size} if automatic else values)
    out = None if flags.out is None else local_folder("--out", flags.out)
    console = Console(stderr=flags.json)
    with StageProgress(console) as progress:
        reports = aot.compile_all(
            targets,
            config,
            per_device=flags.per_device,
            auto_batch=automatic,
            images=_images(config, args),
            effort=flags.compiler_effort,
            timeout=flags.timeout,
            show=progress.show,
            on_report=lambda report: progress.finish(_outcome(report)),
        )
    if flags.json:
        print(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        print_reports(console, reports, config)
    if out is not None:
        names = ", ".join(file.name for file in write(out, reports, _title(config)))
        console.print(plain(f"Results written to {out}: {names}"), soft_wrap=True)
    failures = [report for report in reports if report.error is not None]
    if len(failures) == len(reports):
        raise RunError(f"no target could be compiled: {failures[-1].target}: {failures[-1].error}")


def _images(config: train.Config, args: Sequence[str]) -> Images:
    """Return the image shapes of the dataset if --dataset was given, or else the default image shapes of the model."""
    is_named = value_of(args, "--dataset") is not None
    return Images.of_dataset(config) if is_named else images_of(config)


def _title(config: train.Config) -> str:
    return f"Training step of {config.model}, {config.dtype}"


def write(folder: Path, reports: Sequence[aot.Report], title: str) -> list[Path]:
    """Write the reports to `folder` as JSON and as plots, and return the paths of the files.

    Raises:
      UsageError: if the folder cannot be written.
    """
    document = {"title": title, "reports": [report.to_dict() for report in reports]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORTS).write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"--out cannot be written: {folder} ({error.strerror}). Choose a writable folder.") from None
    from jaxcnn.aot import plots

    return [folder / REPORTS, *plots.draw(reports, title, folder)]


def _outcome(report: aot.Report) -> Text:
    """Return the line to print when the compilation for a target has ended."""
    line = plain(f"{report.target}: ")
    if report.error is not None:
        line.append(printable(report.error), "red")
    elif not report.fits:
        line.append("does not fit", "red")
    elif report.images_per_second is None:
        line.append(f"{_scaled(report.flops)} FLOPs, {_scaled(report.bytes_accessed, 'B')} accessed")
    else:
        line.append("at most ").append(f"{report.images_per_second:,.0f}", "bold")
        line.append(f" images/s, bound by {report.bound}")
    return line


def _time(seconds: float | None) -> str:
    """Return a time as text, in milliseconds or microseconds.

    >>> _time(0.0478), _time(7.94e-7)
    ('47.8 ms', '0.794 µs')
    """
    if seconds is None:
        return ""
    return f"{seconds * 1e3:,.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _thousands(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _scaled(value: float | None, unit: str = "") -> str:
    """Return a large number as text, with a decimal prefix such as T for 10^12.

    >>> _scaled(3.09e12), _scaled(33.9e9, "B")
    ('3.09 T', '33.9 GB')
    """
    if value is None:
        return ""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def _part(name: str) -> Callable[[aot.Report], str]:
    return lambda report: "" if report.memory is None else format_bytes(getattr(report.memory, name))


def _fit(report: aot.Report) -> str:
    if report.fits is None:
        return "failed" if report.error is not None else ""
    if report.fits:
        return "yes"
    return "no" if report.missing_bytes is None else f"no, +{format_bytes(report.missing_bytes)}"


def _available(report: aot.Report) -> str:
    available = aot.parse_target(report.target).memory
    return "" if available is None else format_bytes(available)


def _collectives(report: aot.Report) -> str:
    return "" if report.transfers is None else f"{sum(entry['count'] for entry in report.transfers):,.0f}"


def _collective_bytes(report: aot.Report) -> str:
    return "" if not report.transfers else _scaled(sum(entry["bytes"] for entry in report.transfers), "B")


ROWS: tuple[tuple[str, Callable[[aot.Report], str]], ...] = (
    ("chips", lambda report: f"{report.chips:,}"),
    ("batch per chip", lambda report: _thousands(report.batch_per_chip)),
    ("parameters", _part("parameters")),
    ("optimizer state", _part("optimizer")),
    ("averages", lambda report: _part("averages")(report) if report.memory and report.memory.averages else ""),
    ("activations, temporaries", _part("temporaries")),
    ("total memory", _part("total")),
    ("memory for programs", _available),
    ("fits", _fit),
    ("FLOPs", lambda report: _scaled(report.flops)),
    ("bytes accessed", lambda report: _scaled(report.bytes_accessed, "B")),
    ("FLOPs per byte", lambda report: "" if report.intensity is None else f"{report.intensity:.3g}"),
    ("time by compute", lambda report: _time(report.compute_seconds)),
    ("time by memory", lambda report: _time(report.memory_seconds)),
    ("time by network", lambda report: _time(report.network_seconds)),
    ("bound", lambda report: report.bound or ""),
    ("images/s per chip, at most", lambda report: _thousands(_per_chip(report))),
    ("images/s, at most", lambda report: _thousands(report.images_per_second)),
    ("MFU, at most", lambda report: "" if report.mfu is None else f"{report.mfu:.1%}"),
    ("padding to tiles", lambda report: f"{report.padding:.1%}" if report.padding else ""),
    ("collectives", _collectives),
    ("bytes of collectives", _collective_bytes),
    ("compile, CPU seconds", lambda report: _thousands(report.compile_cpu_seconds)),
)
"""Rows of the table: for each row, the title, and a function that returns the text of the cell for a report."""


def _per_chip(report: aot.Report) -> float | None:
    return None if report.images_per_second is None else report.images_per_second / report.chips


def print_reports(console: Console, reports: Sequence[aot.Report], config: train.Config) -> None:
    """Print the reports as one or more tables of at most `WIDTH` characters per line, then notes on the numbers."""
    rows = [(name, [text(report) for report in reports]) for name, text in ROWS]
    rows = [(name, cells) for name, cells in rows if any(cells)]
    shape = "×".join(map(str, reports[0].image_shape))
    title = f"{_title(config)}, images {shape}, {config.optimizer.name}"
    console.print(plain(title), soft_wrap=True, highlight=False)
    for columns in _pages([report.target for report in reports], rows):
        table = Table()
        table.add_column("per chip", no_wrap=True)
        for index in columns:
            table.add_column(plain(reports[index].target), justify="right", no_wrap=True)
        for name, cells in rows:
            table.add_row(name, *(plain(cells[index]) for index in columns))
        Console(file=console.file, width=max(console.width, WIDTH)).print(table)
    for note in _notes(reports, config):
        console.print(plain(note), soft_wrap=True, highlight=False)


def _pages(names: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> list[list[int]]:
    """Return the column indices of each table. Each table has at most `WIDTH` characters per line."""
    label = max(len(name) for name, _ in rows) + 4
    pages: list[list[int]] = [[]]
    used = label
    for index, name in enumerate(names):
        width = max(len(name), *(len(cells[index]) for _, cells in rows)) + 3
        if pages[-1] and used + width > WIDTH:
            pages.append([])
            used = label
        pages[-1].append(index)
        used += width
    return pages


def _notes(reports: Sequence[aot.Report], config: train.Config) -> list[str]:
    notes = []
    if any(report.step_seconds is not None for report in reports):
        notes.append(
            "Times are lower bounds: the chip, its memory and its links run at their peak. The longest time is the "
            "step time."
        )
    if config.parallel in ("auto", "pmap"):
        notes.append("The step is compiled with shard_map, because pmap cannot be compiled for absent devices.")
    if any(parse.platform == "cuda" for parse in map(aot.parse_target, (report.target for report in reports))):
        notes.append("GPU programs are not tuned on a device. On a GPU, XLA may choose other fusions and algorithms.")
    if any(report.tried for report in reports):
        for report in reports:
            trials = ", ".join(f"{size} {'fits' if fits else 'does not fit'}" for size, fits in report.tried)
            notes.append(f"{report.target}, batch per chip: {trials}")
    return notes
