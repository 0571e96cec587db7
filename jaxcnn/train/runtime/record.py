"""Write and read `metrics.jsonl`, the metrics of a run: one line of JSON for every step and every evaluation."""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics import numbers
from jaxcnn.train.runtime import sealed, workdir
from jaxcnn.train.runtime.workdir import METRICS, replacing, writing

Row = dict[str, Any]

SPLITS = ("train", "validation", "test")
VERIFY = "verify"
"""Value of `split` in a row of `metrics.jsonl` that reports silent data corruption; see `verification`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lines:
    """The content of a file `metrics.jsonl`.

    Attributes:
      rows: the intact rows in the order of the file. Each pair of a step and a split occurs once.
      damaged: line numbers, counted from 1, of lines that are not rows, do not match their checksum, or repeat a row.
      unchecked: number of rows without a checksum.
      is_torn: whether the last line is incomplete. A killed process can leave an incomplete line.
    """

    rows: list[Row]
    damaged: list[int]
    unchecked: int
    is_torn: bool


def read_lines(folder: Path) -> Lines:
    """Return the lines of a run's `metrics.jsonl`. If the file does not exist, return no lines.

    Raises:
      UsageError: if the file cannot be read.
    """
    path, run = folder / METRICS, workdir.run_of(folder)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return Lines([], [], 0, False)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Restore the file, or move it away.") from error
    rows: dict[Any, Row] = {}
    damaged, unchecked = [], 0
    for number, line in enumerate(lines, 1):
        try:
            if number == len(lines) and not line:
                break
            row, is_checked = sealed.row_of(line, run)
            _check_row(row)
            key = (row["split"], row["step"], row.get("time"))
            if key in rows:
                raise ValueError("the file contains this row twice")
            rows[key] = row
            unchecked += not is_checked
        except ValueError:
            damaged.append(number)
    return Lines([*rows.values()], damaged, unchecked, damaged[-1:] == [len(lines)])


def _check_row(row: Row) -> None:
    """Raise `ValueError` if a row of `metrics.jsonl` has no valid split or step, or a value that is not a number."""
    if row.get("split") == VERIFY:
        if not all(type(row.get(name)) is int and row[name] >= 0 for name in ("step", "found_at")):
            raise ValueError("a verification row has no valid step numbers")
        return
    others = [value for name, value in row.items() if name not in ("split", "step")]
    if row.get("split") not in SPLITS or type(row.get("step")) is not int or row["step"] < 1:
        raise ValueError("the row has no valid split or step")
    if not all(isinstance(x, int | float | list) and not isinstance(x, bool) for x in others):
        raise ValueError("a value is not a number")


def read_rows(folder: Path) -> list[Row]:
    """Return the intact rows of a run's `metrics.jsonl`, oldest first.

    Raises:
      UsageError: if the file cannot be read.
    """
    return read_lines(folder).rows


def numbers_to_plot(row: Row) -> dict[str, float]:
    """Return the values of a row that are single numbers, without the step.

    >>> numbers_to_plot({"split": "test", "step": 7, "loss": 0.5, "recall": [0.1, 0.9]})
    {'loss': 0.5}
    """
    return {name: number for name, number in numbers(row).items() if name != "step"}


class Record:
    """Write the metrics of a run to `metrics.jsonl` in the run directory.

    A row has `split` ("train", "validation" or "test"), `step` (number of steps made), `epoch`, and metrics by name. A
    metric is a number or a list of numbers. A training row also has `learning_rate`, and the row of an evaluation also
    has `examples`. A row with the split "verify" reports a corrupt step, and the step to which the run has gone back.

    When a run is resumed at `first_step`, rows of later steps are dropped, since the run repeats these steps. Damaged
    lines are dropped too. The file then contains each step once. If the row of a step was lost, by damage or by an edit
    of the file, the step gets a row without metrics, and a warning lists these steps.

    Every method raises `RunError` if the file cannot be written.

    Args:
      folder: the run directory.
      first_step: number of steps that the run has made.
      epoch: function that returns the epoch after a number of steps. With None, rows of lost steps have no epoch.

    Raises:
      UsageError: if the file cannot be read.
    """

    def __init__(self, folder: Path, first_step: int, epoch: Callable[[int], float] | None = None):
        self._path, self._run = folder / METRICS, workdir.run_of(folder)
        kept = [row for row in read_rows(folder) if row["step"] <= first_step]
        made = {row["step"] for row in kept if row["split"] == "train"}
        lost = [step for step in range(1, first_step + 1) if step not in made]
        if lost:
            _log.warning(
                "%s has no rows for %d of the %d steps of the run so far (%s). "
                "For these steps, rows without metrics are added",
                *(self._path, len(lost), first_step, ranges(lost)),
            )
            kept += [{"split": "train", "step": step, **_epoch(epoch, step)} for step in lost]
            kept.sort(key=lambda row: (row["step"], row["split"] != "train"))
        with writing(self._path):
            with replacing(self._path) as temporary:
                temporary.write_text("".join(sealed.line(row, self._run) for row in kept))
            self._file = self._path.open("a")

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If the file cannot be written, `write` or `flush` has raised the error already.
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, row: Row) -> None:
        """Write one row. The row may stay in a buffer until `flush` is called."""
        with writing(self._path):
            self._file.write(sealed.line(row, self._run))

    def flush(self) -> None:
        """Hand all rows to the operating system, so that they are not lost if this process is killed."""
        with writing(self._path):
            self._file.flush()

    def sync(self) -> None:
        """Write all rows to the disk, so that they are not lost in a power failure."""
        self.flush()
        with writing(self._path):
            os.fsync(self._file.fileno())


def _epoch(epoch: Callable[[int], float] | None, step: int) -> Row:
    return {} if epoch is None else {"epoch": round(epoch(step), 4)}


def ranges(steps: Sequence[int]) -> str:
    """Return sorted steps as text, with consecutive steps as ranges. At most `MOST_SHOWN` ranges are shown.

    >>> ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    ranges: list[list[int]] = []
    for step in steps:
        if ranges and ranges[-1][1] == step - 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ", ".join([*texts[:MOST_SHOWN], *(["..."] if len(texts) > MOST_SHOWN else [])])


MOST_SHOWN = 8
"""Largest number of ranges of steps that a warning shows."""
