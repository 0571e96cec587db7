"""Tables of `jaxcnn benchmark`: rows of measurements, and comparisons of two results."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxcnn import measure
from jaxcnn.cli._output import plain
from jaxcnn.measure.columns import BY_NAME, format_value

_PRINTED_COLUMNS = (
    "model",
    "model_options",
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


_TEXT_COLUMNS = ("model", "model_options", "mode", "dtype", "parallel", "error")
_CASE_COLUMNS = ("model", "model_options", "mode", "dtype", "parallel", "devices", "batch_size")


def print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table. Case columns with the same value in all rows are in the title of the table."""
    names = [name for name in _PRINTED_COLUMNS if any(row.get(name) is not None for row in rows)]
    common = [n for n in names if n in _CASE_COLUMNS and len({format_value(row, n) for row in rows}) == 1]
    table = Table(title=", ".join(f"{BY_NAME[n].title} {format_value(rows[0], n)}" for n in common) or None)
    names = [name for name in names if name not in common]
    for name in names:
        justify = "left" if name in _TEXT_COLUMNS else "right"
        table.add_column(BY_NAME[name].title, justify=justify, overflow="fold")
    for row in rows:
        cells = [format_value(row, name) for name in names]
        if "error" in names:
            # The command has printed the full message when the row failed.
            cells[names.index("error")] = format_value(row, "error").split(":")[0]
        table.add_row(*map(plain, cells))
    console.print(table)
    first = rows[0]
    if "jax" in first:
        measured_peak = first.get("peak_source") == "measured"
        software = f"{first['device_kind']}, jax {first['jax']}, jaxlib {first['jaxlib']}, flax {first['flax']}"
        note = "; MFU relative to a peak measured with a matrix product" if measured_peak else ""
        console.print(plain(software + note), soft_wrap=True)
        used = {row.get("dtype"): row["convolutions"] for row in rows if "convolutions" in row}
        convolutions = ", ".join(f"{name} ({dtype})" if len(used) > 1 else name for dtype, name in used.items())
        console.print(
            plain(
                f"convolutions: {convolutions}; freed memory: {first['freed_memory']}; "
                f"XLA_FLAGS: {first['xla_flags'] or 'none'}"
            ),
            soft_wrap=True,
        )


_ENVIRONMENT_COLUMNS = ("device_kind", "jax", "jaxlib", "flax", "xla_flags", "convolutions", "freed_memory")
_VERDICT_COLORS = {"slower": "red", "failed": "red", "faster": "green", "fixed": "green"}


def print_comparisons(console: Console, comparisons: Sequence[measure.Comparison]) -> None:
    """Print a table of the comparisons, then the software and hardware properties that differ between the results."""
    table = Table("case", "old ms/step", "new ms/step", "new / old", "noise threshold", "verdict")
    for c in comparisons:
        table.add_row(
            plain(" ".join(str(value) for value in c.case.values() if value is not None)),
            format_value(c.old or {}, "step_ms"),
            format_value(c.new or {}, "step_ms"),
            "" if c.ratio is None else f"{c.ratio:.3f}",
            "" if c.band is None else f"±{c.band:.1%}",
            Text(c.verdict, _VERDICT_COLORS.get(c.verdict, "")),
        )
    console.print(table)
    for name in _ENVIRONMENT_COLUMNS:
        pairs = {(str(c.old.get(name)), str(c.new.get(name))) for c in comparisons if c.old and c.new}
        for old, new in sorted(pair for pair in pairs if pair[0] != pair[1]):
            console.print(plain(f"{name} differs: {old} -> {new}"), soft_wrap=True)
