"""`jaxcnn benchmark`: measure speed and memory; `jaxcnn benchmark compare`: two results side by side."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from jaxcnn import measure
from jaxcnn.cli._flags import parse
from jaxcnn.errors import RunError, UsageError
from jaxcnn.measure import results
from jaxcnn.measure.columns import BY_NAME, shown


@dataclass(frozen=True)
class Flags:
    """Measure every combination of what is given, each in a fresh process. Commas separate values.

    `jaxcnn benchmark compare OLD NEW` sets two results side by side.
    """

    model: str = "resnet50"
    """Architectures; `jaxcnn models` lists them."""
    batch_sizes: str = "32"
    """Images in a step, over all devices together; auto doubles the batch until memory ends."""
    mode: str = "train"
    """train (one update) and infer (forward pass and loss)."""
    dtype: str = "float32"
    """Of the computation: float32, bfloat16, float16."""
    parallel: str = "pmap"
    """How the step is spread: pmap, shard_map, jit."""
    devices: str | None = None
    """How many devices share the batch (default: all); on a CPU more than there are make fake ones."""
    image_size: int | None = None
    """Height and width of the images (default: the model's)."""
    steps: int = 20
    """Steps to time at least; more if they are short."""
    steps_per_dispatch: str = "1"
    """Steps that one call of the compiled program makes."""
    memory_limit: float | None = None
    """GiB on each device; programs predicted to need more are not run (default, on a CPU: what is free)."""
    timeout: float | None = None
    """Seconds that a row may take."""
    out: str | None = None
    """Folder for rows.json, rows.csv, rows.md and pictures."""
    json: bool = False
    """Print the rows as JSON, and everything else to standard error."""


@dataclass(frozen=True)
class CompareFlags:
    """Compare two results of the same cases; exit status 1 if any became slower by more than the noise."""

    old: tyro.conf.Positional[str]
    """A folder that --out made, or its rows.json."""
    new: tyro.conf.Positional[str]
    """The same, measured later."""
    json: bool = False
    """Print the comparison as JSON."""


def run(args: Sequence[str]) -> None:
    if args and args[0] == "compare":
        _compare(parse(CompareFlags, "benchmark compare", args[1:]))
    else:
        _measure(parse(Flags, "benchmark", args))


def _measure(flags: Flags) -> None:
    console = Console(stderr=flags.json)
    out = _folder(flags.out)
    models = _words("model", flags.model)
    so_far: list[dict[str, Any]] = []
    progress = _Progress(console)

    def on_row(row: dict[str, Any]) -> None:
        so_far.append(row)
        progress.row_done(row)
        if out is not None:  # after each row, so that what was measured stays if the next is interrupted
            results.write(out, so_far, _title(models), pictures=False)

    with progress:
        rows = measure.benchmark(
            models,
            batch_sizes="auto" if flags.batch_sizes == "auto" else _numbers("batch-sizes", flags.batch_sizes),
            modes=_words("mode", flags.mode),
            dtypes=_words("dtype", flags.dtype),
            parallel=_words("parallel", flags.parallel),
            devices=(None,) if flags.devices is None else _numbers("devices", flags.devices),
            steps_per_dispatch=_numbers("steps-per-dispatch", flags.steps_per_dispatch),
            image_size=flags.image_size,
            steps=flags.steps,
            memory_limit=_gib(flags.memory_limit),
            timeout=_positive("timeout", flags.timeout),
            on_row=on_row,
            listen=progress.doing,
        )
    if flags.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_rows(console, rows)
    if out is not None:
        files = results.write(out, rows, _title(models))
        console.print(f"written to {out}: {', '.join(file.name for file in files)}", highlight=False, soft_wrap=True)


def _words(flag: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"--{flag} must be words with commas between them, got {text!r}")
    return words


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        also = " or auto" if flag == "batch-sizes" else ""
        raise UsageError(f"--{flag} must be whole numbers with commas between them{also}, got {text!r}") from None


def _positive(flag: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"--{flag} must be a positive number, got {value:g}")
    return value


def _gib(value: float | None) -> int | None:
    value = _positive("memory-limit", value)
    return None if value is None else max(1, round(value * 2**30))


def _folder(out: str | None) -> Path | None:
    """The folder for results, known to be writable before an hour of measuring; nothing is made yet."""
    if out is None:
        return None
    folder = Path(out).expanduser()
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"--out {out} cannot be written: {existing} is no folder that may be written to")
    return folder


def _title(models: Sequence[str]) -> str:
    return f"Benchmark of {', '.join(models)}"


class _Progress:
    """What is being measured and for how long, and a line for every row that is done."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=2,  # drawing takes time from what is measured
        )
        self._task = self._bar.add_task("starting")
        self._case: measure.Case | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._case is not None:
            self._bar.stop()

    def doing(self, case: measure.Case, what: str) -> None:
        self._bar.start()  # with the first case, so that a mistake in the flags is told on a clean screen
        if case is not self._case:
            self._case = case
            self._bar.reset(self._task)
        name = f"{case.model} {case.mode} {case.dtype} {case.parallel} batch {case.batch_size}"
        self._bar.update(self._task, description=f"[bold]{name}[/]  {what}")

    def row_done(self, row: dict[str, Any]) -> None:
        name = f"{row['model']} {row['mode']} {row['dtype']} {row['parallel']} x{row.get('devices') or '?'}"
        result = (
            f"[red]{row['error']}[/]"
            if row["error"]
            else f"{shown(row, 'step_ms')} ms a step, [bold]{shown(row, 'images_per_second')}[/] images/s"
        )
        self._console.print(f"{name} batch {row['batch_size']}: {result}", highlight=False, soft_wrap=True)


# What fits a terminal; the files have everything.
_PRINTED = (
    "model",
    "mode",
    "dtype",
    "parallel",
    "devices",
    "batch_size",
    "compile_seconds",
    "step_ms",
    "step_ms_p95",
    "images_per_second",
    "mfu",
    "predicted_bytes",
    "peak_bytes",
    "scaling_efficiency",
    "error",
)


_WORDS = ("model", "mode", "dtype", "parallel", "error")
_ASKED = (*_WORDS[:4], "devices", "batch_size")


def _print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    names = [name for name in _PRINTED if any(row.get(name) is not None for row in rows)]
    # What is the same in all rows stands in one line above them.
    same = [n for n in names if n in _ASKED and len({shown(row, n) for row in rows}) == 1]
    table = Table(title=", ".join(f"{BY_NAME[n].title} {shown(rows[0], n)}" for n in same) or None)
    for name in names:
        if name not in same:
            table.add_column(BY_NAME[name].title, justify="left" if name in _WORDS else "right", overflow="fold")
    for row in rows:
        # Errors stand in full above; here their kind.
        cells = [shown(row, name).split(":")[0] if name == "error" else shown(row, name) for name in names]
        table.add_row(*(cell for name, cell in zip(names, cells, strict=True) if name not in same))
    console.print(table)
    first = rows[0]
    if "jax" in first:
        console.print(
            f"{first['device_kind']}, jax {first['jax']}, jaxlib {first['jaxlib']}, flax {first['flax']}"
            + ("; MFU against a peak measured by a matrix product" if first.get("peak_source") == "measured" else ""),
            highlight=False,
            soft_wrap=True,
        )
        console.print(
            f"convolutions by {first['convolutions']}; freed memory {first['freed_memory']}; "
            f"XLA_FLAGS: {first['xla_flags'] or 'none'}",
            highlight=False,
            soft_wrap=True,
        )


def _compare(flags: CompareFlags) -> None:
    found = measure.compare(results.read(Path(flags.old)), results.read(Path(flags.new)))
    if flags.json:
        told = [{**c.case, "ratio": c.ratio, "band": c.band, "verdict": c.verdict} for c in found]
        print(json.dumps(told, indent=2))
    else:
        table = Table("case", "old ms", "new ms", "new / old", "noise", "verdict")
        colours = {"slower": "red", "failed": "red", "faster": "green", "fixed": "green"}
        for c in found:
            colour = colours.get(c.verdict)
            table.add_row(
                " ".join(str(value) for value in c.case.values() if value is not None),
                shown(c.old or {}, "step_ms"),
                shown(c.new or {}, "step_ms"),
                "" if c.ratio is None else f"{c.ratio:.3f}",
                "" if c.band is None else f"±{c.band:.1%}",
                f"[{colour}]{c.verdict}[/]" if colour else c.verdict,
            )
        console = Console()
        console.print(table)
        for name in ("device_kind", "jax", "jaxlib", "flax", "xla_flags", "convolutions", "freed_memory"):
            differing = {(c.old.get(name), c.new.get(name)) for c in found if c.old and c.new}
            for before, after in sorted((d for d in differing if d[0] != d[1]), key=str):
                console.print(f"{name} differs: {before} -> {after}", highlight=False, soft_wrap=True)
    worse = [c for c in found if c.is_regression]
    if worse:
        raise RunError(f"{len(worse)} of {len(found)} rows are slower than before by more than the noise, or fail")
