"""What the suites over `jaxcnn.measure` share: rows told as they come, and written as JSON, CSV, Markdown, PNG."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.results import RESULTS
from jaxcnn.measure import Case, Row, measure_cases, measure_isolated, results
from jaxcnn.measure.columns import shown


def parser(name: str, explained: str | None) -> argparse.ArgumentParser:
    """The flags that every suite has."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=explained,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--out", type=Path, default=RESULTS / name, help="folder for the results")
    made.add_argument("--steps", type=int, default=20, help="steps to time at least")
    made.add_argument("--timeout", type=float, default=600.0, help="seconds that a row may take")
    return made


def measure(cases: Sequence[Case], title: str, arguments: argparse.Namespace) -> list[Row]:
    """Measures the cases and writes what came of them to `--out`."""
    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        print(f"  {len(rows)} of {len(cases)}: {told(row)}", file=sys.stderr, flush=True)
        results.write(arguments.out, rows, title, pictures=False)

    print(title, file=sys.stderr)
    measure_cases(cases, on_row=on_row, measure=partial(measure_isolated, timeout=arguments.timeout))
    results.write(arguments.out, rows, title)
    return rows


def told(row: Row) -> str:
    """A row in one line."""
    name = f"{row['model']} {row['mode']} {row['dtype']} {row['parallel']} batch {row['batch_size']}"
    if row["error"]:
        return f"{name}: {row['error']}"
    scaling = f", scaling efficiency {shown(row, 'scaling_efficiency')}" if row.get("scaling_efficiency") else ""
    return (
        f"{name} on {row['devices']}: {shown(row, 'step_ms')} ms, {shown(row, 'images_per_second')} images/s{scaling}"
    )


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them, for argparse."""
    return [int(word) for word in text.split(",")]


def words(text: str) -> list[str]:
    return text.split(",")
