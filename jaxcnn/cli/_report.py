"""Write the per-class report of an evaluation: as a table, CSV, Markdown or a PNG image."""

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
"""Value of `--report` that prints the report to standard output."""


def check_targets(targets: Sequence[str]) -> None:
    """Check the files of `--report`, before the test set is evaluated.

    Raises:
      UsageError: if a file does not end in .csv, .md or .png, if its folder does not exist, or if its path is a folder.
    """
    for target in targets:
        if target != OUTPUT:
            _check_file(target)


def _check_file(target: str) -> None:
    path = local_path(FLAG, target)
    if path.suffix.lower() not in WRITERS:
        *first, last = WRITERS
        raise UsageError(f"{FLAG} must be a file that ends in {', '.join(first)} or {last}, or -: {printable(target)}")
    if not path.parent.is_dir():
        raise UsageError(f"the folder of {FLAG} does not exist: {printable(path.parent)}. Create this folder first.")
    if path.is_dir():
        raise UsageError(f"{FLAG} is a folder: {printable(path)}. Give the name of a file.")


def write_reports(targets: Sequence[str], values: dict[str, Any]) -> list[Path]:
    """Write the per-class report of an evaluation to each file in `targets`, and return the paths of the files.

    Args:
      targets: file names that `check_targets` accepts, or "-" to print the report.
      values: the values that `evaluate_trained` returns, with the metrics of `report_metrics`.

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
