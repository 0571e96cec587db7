"""Write the report of each class of a test set: as a table, CSV, Markdown or a picture."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.cli._lines import columns
from jaxcnn.errors import UsageError, printable
from jaxcnn.local_path import local_path
from jaxcnn.train.evaluation.report import Row, class_report, report_cells, report_csv, report_markdown

FLAG = "--report"
OUTPUT = "-"
"""Standard output."""


def check_targets(targets: Sequence[str]) -> None:
    """Check where reports go, before the test set is evaluated.

    Raises:
      UsageError: if a file has another ending, its folder does not exist, or it is a folder itself.
    """
    for target in targets:
        if target != OUTPUT:
            _check_file(target)


def _check_file(target: str) -> None:
    path = local_path(FLAG, target)
    if path.suffix.lower() not in WRITERS:
        *first, last = WRITERS
        raise UsageError(f"{FLAG} must end in {', '.join(first)} or {last}, or be -: {printable(target)}")
    if not path.parent.is_dir():
        raise UsageError(f"the folder of {FLAG} does not exist: {printable(path.parent)}. Create it first.")
    if path.is_dir():
        raise UsageError(f"{FLAG} is a folder: {printable(path)}. Give the name of a file.")


def write_reports(targets: Sequence[str], values: dict[str, Any]) -> list[Path]:
    """Write the report of an evaluation to each target, or print it for `-`. Return the files.

    Args:
      targets: file names that `check_targets` accepts, or `-`.
      values: of `evaluate_trained`, with the metrics of `report_metrics`.

    Raises:
      UsageError: if a file cannot be written.
    """
    rows, written = class_report(values), []
    for target in targets:
        if target == OUTPUT:
            print("\n".join(columns(report_cells(rows))))
            continue
        path = local_path(FLAG, target)
        try:
            WRITERS[path.suffix.lower()](path, rows)
        except OSError as error:
            raise UsageError(f"{printable(path)} cannot be written: {error.strerror}. Give another file.") from error
        written.append(path)
    return written


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(report_csv(rows), encoding="utf-8", newline="")


def _write_markdown(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(report_markdown(rows), encoding="utf-8")


def _write_picture(path: Path, rows: Sequence[Row]) -> None:
    from jaxcnn.visualize import report_figure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib warns about characters that its font does not have
        report_figure(rows).savefig(path)


WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    ".csv": _write_csv,
    ".md": _write_markdown,
    ".png": _write_picture,
}
