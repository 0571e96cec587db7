"""Write the rows of the comparison as Markdown."""

from typing import Any

from benchmarks.peers.libraries import PEERS
from jaxcnn.measure.columns import format_value

WORK = {"train": "training step", "inference": "inference"}
ONLY = {"train": "training only", "inference": "inference only"}
HEAD = "| library | {step} ms | images/s | {step} time / {baseline}'s | minimum-maximum | compile s | versions |"
Row = dict[str, Any]


def to_markdown(rows: list[Row]) -> str:
    """Return the rows: for each model a table of all columns if there are several, and a table of each column."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        columns = [group(rows, task) for task in tasks(rows) if task[0] == model]
        if len(columns) > 1:
            lines += _overview(model, columns)
        for column in columns:
            lines += _details(column)
    return "\n".join(lines) + "\n"


def tasks(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Return the different tasks of the rows."""
    return list(dict.fromkeys(map(_task, rows)))


def group(rows: list[Row], task: tuple[Any, ...]) -> list[Row]:
    """Return the rows of a task."""
    return [row for row in rows if _task(row) == task]


def ratio(rows: list[Row], name: str) -> str:
    """Return a library's time relative to the baseline, or in a few words why it has none; `rows` are of one task."""
    row = next((row for row in rows if row["peer"] == name), None)
    if row is not None:
        return f"{row['ratio']:.2f}" if "ratio" in row else reason(row)
    has = [mode for mode, peers in PEERS.items() if name in [peer.name for peer in peers]]
    return "not run" if mode_of(rows[0]) in has or not has else ONLY[has[0]]


def reason(row: Row) -> str:
    """Return in a few words why a row has no ratio. The words after a colon in an error are details."""
    return row["error"].partition(":")[0] if row["error"] else "no baseline"


def mode_of(row: Row) -> str:
    """Return "train" or "inference"; rows from before there were two modes are of training."""
    return row.get("mode", "train")


def title(row: Row) -> str:
    """Return the work, batch size and dtype of a row's task."""
    return f"{WORK[mode_of(row)]}, batch {row['batch_size']}, {dtype_of(row)}"


def dtype_of(row: Row) -> str:
    """Return the dtype of a row and, for bfloat16 on a CPU, the processor's instructions for it."""
    return row["dtype"] + (f" ({row['bfloat16']})" if row.get("bfloat16") else "")


def _task(row: Row) -> tuple[Any, ...]:
    return row["model"], mode_of(row), row["batch_size"], row["dtype"], tuple(row["image_shape"])


def _overview(model: str, columns: list[list[Row]]) -> list[str]:
    """Return a table with a row for each library and a column for each task: milliseconds, and the ratio."""
    names = dict.fromkeys(row["peer"] for rows in columns for row in rows)
    height, width, _ = columns[0][0]["image_shape"]
    lines = [
        f"\n**{model}**, {height}x{width}, ms (time / baseline's), {columns[0][0]['device_kind']}\n",
        "| library | " + " | ".join(title(rows[0]) for rows in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for name in names:
        cells = []
        for rows in columns:
            times = [row["step_ms"] for row in rows if row["peer"] == name and "step_ms" in row]
            cells.append(f"{times[0]:.1f} ({ratio(rows, name)})" if times else ratio(rows, name))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _details(rows: list[Row]) -> list[str]:
    first = rows[0]
    height, width, _ = first["image_shape"]
    mode = mode_of(first)
    size = f"batch {first['batch_size']} of {height}x{width}"
    about = title(first).replace(f"batch {first['batch_size']}", size)
    head = HEAD.format(step="step" if mode == "train" else "forward", baseline=PEERS[mode][0].name)
    lines = [f"\n**{first['model']}**, {about}, {first['device_kind']}\n", head]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for row in rows:
        if row["error"]:
            lines.append(f"| {row['peer']} | | | | | | {row['error']} |")
            continue
        relative = " | "
        if "ratio" in row:
            relative = f"{row['ratio']:.2f} | {row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
        lines.append(
            f"| {row['peer']} | {row['step_ms']:.1f} | {format_value(row, 'images_per_second')} | {relative} "
            f"| {row['compile_seconds']:.1f} | {row['versions']} |"
        )
    return lines
