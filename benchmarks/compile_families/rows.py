"""Rows of compiled training steps: a JSON Lines file that grows with each compilation, and its Markdown table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.compile_families.families import FAMILIES, SCANNED
from benchmarks.results import read_lines, write_lines
from jaxcnn.aot import Report
from jaxcnn.measure.columns import format_bytes

Row = dict[str, Any]

TITLE = """# Training steps of every family, compiled for TPUs and GPUs that are not here

Written by `python -m benchmarks.compile_families`; `rows.jsonl` has all numbers.
The step is that of `jaxcnn train --model MODEL --dtype bfloat16`: momentum, the state donated, batch normalization
synchronized over all chips. Images have the size that the model was made for. All numbers are of one chip.
The compilers ran on a CPU. [docs/compile.md](../../../docs/compile.md) explains each number.

- Peak: arguments, results, temporaries and the program, as the compiler allocates them.
- Of 3 forward passes: FLOPs, divided by 6 x the multiply-adds of `jaxcnn summary`. A step makes fewer, because it does
  not multiply the zeros of the padding, and because the first layer has no image gradient. On TPUs it is XLA's count,
  which has an operation for each element of normalizations, activations and pooling, too: 23 to 33 in a step for each
  value that a layer returns. They are 0.3 % of the products of the analysis for googlenet_naive, and 10 % for lenet5.
- Time at least: the longest of the times by compute, memory and network at the peak of the chip.
- Loop: the step is compiled with `--model-options scan_blocks=True`. Without this option, the networks of a thousand
  layers need more than 30 minutes.
"""


def key(row: Row) -> tuple[str, str]:
    return row["target"], row["model"]


def add(folder: Path, row: Row) -> None:
    """Add a row to those of a folder, in place of one of the same target and model, and write the page."""
    rows = {key(old): old for old in read_lines(folder)}
    rows[key(row)] = row
    order = [model for models in FAMILIES.values() for model in models]
    ordered = sorted(rows.values(), key=lambda row: (row["target"], order.index(row["model"])))
    write_lines(folder, ordered, page(ordered))


def _scaled(value: float | None, size: float) -> str:
    return "" if value is None else f"{value / size:.3g}"


def _fits(report: Report) -> str:
    return "failed" if report.error else "yes" if report.fits else "no"


def _memory(name: str) -> Callable[[Report], str]:
    return lambda report: "" if report.memory is None else format_bytes(getattr(report.memory, name))


COLUMNS: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("parameters", _memory("parameters")),
    ("temporaries", _memory("temporaries")),
    ("peak", _memory("total")),
    ("fits", _fits),
    ("TFLOP", lambda report: _scaled(report.flops, 1e12)),
    ("of 3 forward passes", lambda report: _ratio(report)),
    ("GB accessed", lambda report: _scaled(report.bytes_accessed, 1e9)),
    ("bound", lambda report: report.bound or ""),
    ("time at least, ms", lambda report: _scaled(report.step_seconds, 1e-3)),
    ("images/s at most", lambda report: "" if report.images_per_second is None else f"{report.images_per_second:,.0f}"),
    ("all-reduces", lambda report: "" if report.transfers is None else f"{_count(report):,.0f}"),
    ("compile, CPU s", lambda report: _scaled(report.compile_cpu_seconds, 1)),
)


def _ratio(report: Report) -> str:
    if report.flops is None or report.model_flops is None:
        return ""
    return f"{report.flops / report.model_flops:.3f}"


def _count(report: Report) -> float:
    return sum(transfer["count"] for transfer in report.transfers or () if transfer["kind"] == "all-reduce")


def page(rows: list[Row]) -> str:
    """Return the Markdown page of rows: a table for each target."""
    parts = [TITLE]
    for target in dict.fromkeys(row["target"] for row in rows):
        reports = [Report.from_dict(row["report"]) for row in rows if row["target"] == target]
        versions = ", ".join(sorted({report.compiler for report in reports}))
        parts.append(f"## {target}: {reports[0].device}, {versions}\n")
        parts.append(f"| model | batch, image | {' | '.join(name for name, _ in COLUMNS)} |")
        parts.append(f"| --- | --- |{' ---: |' * len(COLUMNS)}")
        for report in reports:
            size = f"{report.batch_per_chip} x {'x'.join(map(str, report.image_shape))}"
            loop = " (loop)" if report.model in SCANNED else ""
            cells = [report.model + loop, size, *(text(report) for _, text in COLUMNS)]
            parts.append(f"| {' | '.join(cells)} |")
        parts += ["", *(f"{report.model}: {report.error}" for report in reports if report.error)]
        found = {report.model for report in reports}
        if missing := [model for models in FAMILIES.values() for model in models if model not in found]:
            parts.append(f"Not compiled yet: {', '.join(missing)}.\n")
    return "\n".join(parts).rstrip() + "\n"
