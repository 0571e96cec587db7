"""Write the rows of a benchmark to a folder as JSON, CSV, Markdown and plots, and read the rows back."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.measure.columns import BY_NAME, COLUMNS, columns_with_values, format_value
from jaxcnn.measure.probes import machine

ROWS, TABLE, MARKDOWN = "rows.json", "rows.csv", "rows.md"

Rows = list[dict[str, Any]]


def write(folder: Path, rows: Rows, title: str, *, pictures: bool = True) -> list[Path]:
    """Write the rows of a benchmark to `folder`, replacing the files of an earlier call.

    Args:
      folder: the folder to write to, which is created if it does not exist.
      rows: the rows of the benchmark.
      title: title of the table and of the plots.
      pictures: whether to draw plots, which needs matplotlib.

    Returns:
      The paths of the written files.

    Raises:
      UsageError: if the folder cannot be written.
    """
    document = {"title": title, "date": machine.now(), "rows": rows}
    texts = {
        ROWS: json.dumps(document, indent=1) + "\n",
        TABLE: to_csv(rows),
        MARKDOWN: f"# {title}\n\n{to_markdown(rows)}",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_text(text)
            os.replace(temporary, folder / name)
    except OSError as error:
        raise UsageError(f"folder cannot be written: {folder} ({error.strerror}). Choose a writable folder.") from None
    written = [folder / name for name in texts]
    if pictures:
        from jaxcnn.measure import plots

        written += plots.draw(rows, title, folder)
    return written


def read(path: Path) -> Rows:
    """Return the rows of a benchmark result from a JSON file, or from the file `rows.json` in a folder.

    Raises:
      UsageError: if the file cannot be read or contains no rows.
    """
    file = path / ROWS if path.is_dir() else path
    advice = f"Give a folder that `jaxcnn benchmark --out` wrote, or its {ROWS}."
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))  # a byte-order mark is ignored
    except OSError as error:
        raise UsageError(f"results cannot be read: {file} ({error.strerror}). {advice}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"results file is not JSON: {file}. {advice}") from None
    rows = document.get("rows") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "model" in row for row in rows):
        raise UsageError(f"results file contains no rows: {file}. {advice}")
    for number, row in enumerate(rows, start=1):
        if not _has_times(row):
            raise UsageError(f"row {number} of the results has invalid times: {file}. {advice}")
    return rows


def _has_times(row: dict[str, Any]) -> bool:
    """Return whether the times of a row are positive numbers or are missing."""
    samples = row.get("samples_ms") or []
    times = [*samples, row["step_ms"]] if isinstance(samples, list) and row.get("step_ms") is not None else samples
    return isinstance(times, list) and all(_is_real(time) and 0 < time < 1e15 for time in times)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_csv(rows: Rows) -> str:
    """Return the rows as CSV, with all columns except `samples_ms`."""
    names = [column.name for column in COLUMNS if column.name != "samples_ms"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Return the rows as a Markdown table.

    Args:
      rows: the rows of the benchmark.
      columns: names of the columns. Default: all columns with a title and a value. If
        there are at least two rows, a column with the same value in every row is listed once, above the table.
    """
    lines = []
    if columns is None:
        names = columns_with_values(rows)
        common = [n for n in names if len({format_value(row, n) for row in rows}) == 1] if len(rows) > 1 else []
        columns = [n for n in names if n not in common]
        if common:
            lines.append("; ".join(f"{BY_NAME[n].title}: {format_value(rows[0], n)}" for n in common) + "\n")
    lines.append("| " + " | ".join(BY_NAME[n].title or n for n in columns) + " |")
    lines.append("|" + "".join(" ---: |" if _is_number(rows, n) else " --- |" for n in columns))
    lines += ["| " + " | ".join(format_value(row, n).replace("|", "\\|") for n in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _is_number(rows: Rows, name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(map(_is_real, values))
