"""Write the results of a suite: one folder per suite, with `rows.json` for programs and `rows.md` for people."""

import json
from pathlib import Path
from typing import Any

from jaxcnn.measure.probes import machine

RESULTS = Path(__file__).parent / "results"


LINES = "rows.jsonl"


def write(folder: Path, title: str, rows: list[dict[str, Any]], markdown: str, **more: Any) -> None:
    """Write the results of a suite whose rows are not those of `jaxcnn.measure`.

    For rows of `jaxcnn.measure`, use `jaxcnn.measure.results.write`.

    Args:
      folder: created if it does not exist.
      title: title of the results.
      rows: the rows, as JSON values.
      markdown: the rows as Markdown, without the title.
      **more: other fields of `rows.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"title": title, "date": machine.now(), **more, "rows": rows}
    (folder / "rows.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "rows.md").write_text(f"# {title}\n\n{markdown}")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the rows in the `rows.jsonl` of a folder, which a resumable suite writes; none if it does not exist."""
    path = folder / LINES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_lines(folder: Path, rows: list[dict[str, Any]], page: str) -> None:
    """Write `rows.jsonl`, and the page about it, `README.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LINES).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "README.md").write_text(page)
