"""`jaxcnn benchmark` measures speed and memory. `jaxcnn benchmark compare` compares two results."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.text import Text

from jaxcnn import measure
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import plain
from jaxcnn.cli._stage_progress import StageProgress
from jaxcnn.cli.commands.benchmark._tables import print_comparisons, print_rows
from jaxcnn.errors import RunError, UsageError, printable, shortened
from jaxcnn.local_path import local_folder, local_path
from jaxcnn.measure import results
from jaxcnn.measure.columns import format_value

# Largest value of --timeout (seconds) and --memory-limit (GiB).
LARGEST_NUMBER = 1e7


@dataclass(frozen=True)
class Flags:
    """Measure step time, throughput and memory of a model, or of every combination of the given values.

    Separate several values of a flag with commas. Each combination of values is one row of the result and runs in a
    fresh process. The exit status is 1 if no row could be measured.
    `jaxcnn benchmark compare OLD NEW` compares two results.
    """

    model: str = "resnet50"
    """Model names; `jaxcnn models` lists them."""
    model_options: tuple[str, ...] = ()
    """Fields of the models to change, as NAME=VALUE, such as remat=True."""
    batch_sizes: str = "32"
    """Images per step, over all devices. auto: try 8, 16, 32, ... until memory runs out."""
    mode: str = "train"
    """Step to measure. train: one optimizer step. infer: forward pass and loss."""
    dtype: str = "float32"
    """Compute dtype: float32, bfloat16 or float16. Parameters stay float32."""
    parallel: str = "pmap"
    """How to distribute the step over devices: pmap, shard_map or jit."""
    devices: str | None = None
    """Number of devices (default: all). On a CPU, JAX simulates this number of devices."""
    image_size: int | None = None
    """Image height and width in pixels (default: the image size of the model's dataset)."""
    steps: int = 20
    """Minimum number of steps to time. If steps are short, more steps are timed."""
    steps_per_dispatch: str = "1"
    """Training steps per call of the compiled program."""
    memory_limit: float | None = None
    """Memory limit in GiB per device. Programs that XLA predicts to need more memory do not run (default: the free
    memory on a CPU, no limit on other devices)."""
    timeout: float | None = None
    """Time limit of each measurement in seconds."""
    out: str | None = None
    """Write rows.json, rows.csv, rows.md and plots to this folder."""
    json: bool = False
    """Print the measurements as JSON; all other output goes to standard error."""


@dataclass(frozen=True)
class CompareFlags:
    """Compare an old and a new benchmark result of the same cases.

    The exit status is 1 if a case became slower by more than the noise threshold, or fails only in the new result.
    """

    old: tyro.conf.Positional[str]
    """Old result: a folder that `--out` wrote, or its rows.json."""
    new: tyro.conf.Positional[str]
    """New result: a folder that `--out` wrote, or its rows.json."""
    json: bool = False
    """Print the comparison as JSON."""


def run(args: Sequence[str]) -> None:
    if args and args[0] == "compare":
        _compare(parse(CompareFlags, "benchmark compare", args[1:]))
    else:
        _measure(parse(Flags, "benchmark", args))


def _measure(flags: Flags) -> None:
    console = Console(stderr=flags.json)
    out = _writable_folder(flags.out)
    models = _split_names("model", flags.model)
    measured: list[dict[str, Any]] = []
    progress = StageProgress(console)

    def on_row(row: dict[str, Any]) -> None:
        measured.append(row)
        progress.finish(_outcome(row))
        if out is not None:  # written after each row, so that an interruption loses only the current row
            results.write(out, measured, _title(models), pictures=False)

    with progress:
        rows = measure.benchmark(
            models,
            batch_sizes="auto" if flags.batch_sizes == "auto" else _split_numbers("batch-sizes", flags.batch_sizes),
            modes=_split_names("mode", flags.mode),
            dtypes=_split_names("dtype", flags.dtype),
            parallel=_split_names("parallel", flags.parallel),
            devices=(None,) if flags.devices is None else _split_numbers("devices", flags.devices),
            steps_per_dispatch=_split_numbers("steps-per-dispatch", flags.steps_per_dispatch),
            image_size=flags.image_size,
            steps=flags.steps,
            memory_limit=_gib_to_bytes(flags.memory_limit),
            model_options=flags.model_options,
            timeout=_positive("timeout", flags.timeout),
            on_row=on_row,
            listen=lambda case, stage: progress.show(_name(case), stage),
        )
    if flags.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(console, rows)
    if out is not None:
        files = results.write(out, rows, _title(models))
        names = ", ".join(file.name for file in files)
        console.print(plain(f"Results written to {out}: {names}"), soft_wrap=True)
    if all(row["error"] for row in rows):
        raise RunError(
            f"no measurement succeeded: {len(rows)} failed. Error of the last measurement: {rows[-1]['error']}"
        )


def _split_names(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"--{flag} has an empty value: {shortened(text)!r}. Give names separated by commas.")
    return names


def _split_numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        alternative = ", or auto" if flag == "batch-sizes" else ""
        raise UsageError(
            f"--{flag} is not a list of integers: {shortened(text)!r}. Give integers separated by commas{alternative}."
        ) from None


def _positive(flag: str, value: float | None) -> float | None:
    if value is not None and not 0 < value <= LARGEST_NUMBER:
        raise UsageError(f"--{flag} must be a positive number: {value:g}. Give a number up to {LARGEST_NUMBER:g}.")
    return value


def _gib_to_bytes(value: float | None) -> int | None:
    value = _positive("memory-limit", value)
    return None if value is None else max(1, round(value * 2**30))


def _writable_folder(out: str | None) -> Path | None:
    """Return the folder for results without creating the folder.

    Raises:
      UsageError: if the folder cannot be written. The check comes before the measurements, which may take hours.
    """
    if out is None:
        return None
    folder = local_folder("--out", out)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            f"--out cannot be written: {out} ({existing} is not a writable folder). Choose a writable folder."
        )
    return folder


def _title(models: Sequence[str]) -> str:
    return f"Benchmark of {', '.join(models)}"


def _name(case: measure.Case) -> str:
    return f"{case.model} {case.mode} {case.dtype} {case.parallel} batch {case.batch_size}"


def _outcome(row: dict[str, Any]) -> Text:
    """Return the line to print when a case is measured: the case, then its error or its step time and throughput."""
    name = f"{row['model']} {row['mode']} {row['dtype']} {row['parallel']} x{row.get('devices') or '?'}"
    line = plain(f"{name} batch {row['batch_size']}: ")
    if row["error"]:
        line.append(printable(row["error"]), "red")
    else:
        line.append(f"{format_value(row, 'step_ms')} ms/step, ")
        line.append(format_value(row, "images_per_second"), "bold").append(" images/s")
    return line


def _compare(flags: CompareFlags) -> None:
    old, new = (results.read(local_path(*pair)) for pair in (("OLD", flags.old), ("NEW", flags.new)))
    comparisons = measure.compare(old, new)
    if flags.json:
        rows = [{**c.case, "ratio": c.ratio, "band": c.band, "verdict": c.verdict} for c in comparisons]
        print(json.dumps(rows, indent=2))
    else:
        print_comparisons(Console(), comparisons)
    regressions = [c for c in comparisons if c.is_regression]
    if regressions:
        raise RunError(
            f"performance regressions: {len(regressions)} of {len(comparisons)} cases. "
            "The verdict of these cases is slower or failed."
        )
