"""Rows of steps that recompute blocks: a JSON Lines file that grows with each compilation, and its Markdown table."""

from pathlib import Path
from typing import Any

from benchmarks.results import read_lines, write_lines

Row = dict[str, Any]

TITLE = """# Memory of steps that recompute blocks

Written by `python -m benchmarks.remat`; `rows.jsonl` has all numbers. The compilers ran on a CPU.
The step is that of `jaxcnn train --model MODEL --dtype bfloat16 --model-options remat=SIZE`: momentum, with the state
donated. All numbers are of one chip.

- Activations: their predicted bytes, by `jaxcnn.layers.recomputation.plan` from shapes. `remat=SIZE` limits these.
- Gradients: bytes of the gradients of all parameters, in float32.
- Temporaries: what the compiler allocates besides state, batch and program. Besides activations and gradients, these
  are gradients of activations and work space of single operations, which no prediction contains.
- Ratio: temporaries divided by the sum of activations and gradients.
- Multiply-adds: those that are computed again, in percent of those of all blocks.
"""


def key(row: Row) -> tuple[str, str, str]:
    return row["target"], row["model"], row["remat"]


def add(folder: Path, row: Row) -> None:
    """Add a row to those of a folder, in place of one of the same target, model and size, and write the page."""
    rows = {key(old): old for old in read_lines(folder)}
    rows[key(row)] = row
    ordered = sorted(rows.values(), key=lambda row: (row["target"], row["model"], -row["budget"]))
    write_lines(folder, ordered, page(ordered))


def page(rows: list[Row]) -> str:
    """Return the Markdown page of rows: a table for each target."""
    parts = [TITLE]
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        versions = ", ".join(sorted({row["compiler"] for row in of_target}))
        parts.append(f"## {target}, {versions}\n")
        cells = (
            "model | images | `remat` | blocks | multiply-adds | activations GB | gradients GB | temporaries GB | ratio"
        )
        parts.append(f"| {cells} |")
        parts.append("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        parts += [f"| {' | '.join(_cells(row))} |" for row in of_target]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _cells(row: Row) -> list[str]:
    temporaries = row["temporaries"]
    return [
        row["model"],
        str(row["batch"]),
        f"`{row['remat']}`",
        f"{row['recomputed']} of {row['blocks']}",
        f"{100 * row['macs'] / row['all_macs']:.0f}%",
        f"{row['predicted'] / 1e9:.2f}",
        f"{row['gradients'] / 1e9:.2f}",
        row["error"] if temporaries is None else f"{temporaries / 1e9:.2f}",
        "" if temporaries is None else f"{ratio(row):.2f}",
    ]


def ratio(row: Row) -> float:
    """Return the temporaries of a row, divided by the predicted activations and the gradients."""
    return row["temporaries"] / (row["predicted"] + row["gradients"])
