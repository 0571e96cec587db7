"""Flags, progress output and result files of the suites that use `jaxcnn.measure`."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.results import RESULTS
from jaxcnn.measure import Case, Row, measure_cases, measure_isolated, results
from jaxcnn.measure.columns import format_value


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all suites share."""
    flags = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--out", type=Path, default=RESULTS / name, help="folder for the results (default: %(default)s)")
    flags.add_argument("--steps", type=int, default=20, help="minimum number of steps to time (default: %(default)s)")
    flags.add_argument(
        "--timeout", type=float, default=600.0, help="time limit per case in seconds (default: %(default)s)"
    )
    return flags


def measure(cases: Sequence[Case], title: str, arguments: argparse.Namespace) -> list[Row]:
    """Measure the cases, report each row on standard error, and write the results to `--out`."""
    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        print(f"  {len(rows)} of {len(cases)}: {describe(row)}", file=sys.stderr, flush=True)
        results.write(arguments.out, rows, title, pictures=False)

    print(title, file=sys.stderr)
    measure_cases(cases, on_row=on_row, measure=partial(measure_isolated, timeout=arguments.timeout))
    results.write(arguments.out, rows, title)
    return rows


def describe(row: Row) -> str:
    """Return a row as one line of text."""
    name = f"{row['model']} {row['mode']} {row['dtype']} {row['parallel']} batch {row['batch_size']}"
    if row["error"]:
        return f"{name}: {row['error']}"
    step_ms, images_per_second = format_value(row, "step_ms"), format_value(row, "images_per_second")
    line = f"{name} on {row['devices']}: {step_ms} ms, {images_per_second} images/s"
    if row.get("scaling_efficiency"):
        line += f", scaling efficiency {format_value(row, 'scaling_efficiency')}"
    return line


def numbers(text: str) -> list[int]:
    """Parse comma-separated integers; a type for argparse."""
    return [int(number) for number in text.split(",")]


def words(text: str) -> list[str]:
    """Parse comma-separated names; a type for argparse."""
    return text.split(",")
