"""Where suites leave their results: a folder each, with `rows.json`, and `rows.md` for people."""

import json
from pathlib import Path
from typing import Any

from jaxcnn.measure.probes import machine

RESULTS = Path(__file__).parent / "results"


def write(folder: Path, title: str, rows: list[dict[str, Any]], markdown: str, **more: Any) -> None:
    """Writes a suite's results; for rows of `jaxcnn.measure` there is `jaxcnn.measure.results.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    made_of = {"title": title, "date": machine.now(), **more, "rows": rows}
    (folder / "rows.json").write_text(json.dumps(made_of, indent=1) + "\n")
    (folder / "rows.md").write_text(f"# {title}\n\n{markdown}")
