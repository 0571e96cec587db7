"""Results on disk: rows as JSON, CSV and Markdown, and their pictures, in one folder."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.measure.columns import BY_NAME, COLUMNS, shown, varying
from jaxcnn.measure.probes import machine

ROWS, TABLE, MARKDOWN = "rows.json", "rows.csv", "rows.md"

Rows = list[dict[str, Any]]


def write(folder: Path, rows: Rows, title: str, *, pictures: bool = True) -> list[Path]:
    """Writes the rows to `folder` and returns the files; what is there of an earlier call is replaced.

    Raises:
      UsageError: a folder that cannot be written.
    """
    made_of = {"title": title, "date": machine.now(), "rows": rows}
    texts = {
        ROWS: json.dumps(made_of, indent=1) + "\n",
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
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    written = [folder / name for name in texts]
    if pictures:
        from jaxcnn.measure import plots

        written += plots.draw(rows, title, folder)
    return written


def read(path: Path) -> Rows:
    """The rows in a results file, or in the `rows.json` of a folder.

    Raises:
      UsageError: a file that is missing or holds no rows.
    """
    file = path / ROWS if path.is_dir() else path
    try:
        value = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{file} is not JSON; give the {ROWS} that `jaxcnn benchmark --out` writes") from None
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "model" in row for row in rows):
        raise UsageError(f"{file} holds no rows of a benchmark; give the {ROWS} that `jaxcnn benchmark --out` writes")
    return rows


def to_csv(rows: Rows) -> str:
    """All columns but the single samples, a line each row."""
    names = [column.name for column in COLUMNS if column.name != "samples_ms"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """A table for people, of the given columns or of all that have a title and a value, and how to repeat the rows."""
    if columns is None:
        # What is the same in every row stands once, above.
        names = varying(rows)
        common = [n for n in names if len({shown(row, n) for row in rows}) == 1] if len(rows) > 1 else []
        columns = [n for n in names if n not in common]
        above = "; ".join(f"{BY_NAME[n].title}: {shown(rows[0], n)}" for n in common)
    else:
        above = ""
    lines = [f"{above}\n"] if above else []
    lines.append("| " + " | ".join(BY_NAME[n].title or n for n in columns) + " |")
    lines.append("|" + "".join(" ---: |" if _is_number(rows, n) else " --- |" for n in columns))
    lines += ["| " + " | ".join(shown(row, n).replace("|", "\\|") for n in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _is_number(rows: Rows, name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
