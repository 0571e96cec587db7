"""Metrics of a run: a JSON line for every step and every evaluation."""

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
"""Value of `split` in a row about silent data corruption; see `verification`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lines:
    """The lines of a `metrics.jsonl`.

    Attributes:
      rows: the sound rows, each step and split once, in the order of the file.
      damaged: numbers of the lines (from 1) that are not rows, that differ from their checksum, or that repeat a row.
      unchecked: number of rows without a checksum.
      is_torn: whether the last line is incomplete, as a killed process leaves it.
    """

    rows: list[Row]
    damaged: list[int]
    unchecked: int
    is_torn: bool


def read_lines(folder: Path) -> Lines:
    """Return the lines of a run's `metrics.jsonl`; none if there is no such file.

    Raises:
      UsageError: if the file cannot be read.
    """
    path, run = folder / METRICS, workdir.run_of(folder)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return Lines([], [], 0, False)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Restore it, or move it away.") from error
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
                raise ValueError("the row was there before")
            rows[key] = row
            unchecked += not is_checked
        except ValueError:
            damaged.append(number)
    return Lines([*rows.values()], damaged, unchecked, damaged[-1:] == [len(lines)])


def _check_row(row: Row) -> None:
    """Raise `ValueError` unless a row has a split, a step, and numbers or lists of them, or a finding of `VERIFY`."""
    if row.get("split") == VERIFY:
        if not all(type(row.get(name)) is int and row[name] >= 0 for name in ("step", "found_at")):
            raise ValueError("a finding without steps")
        return
    others = [value for name, value in row.items() if name not in ("split", "step")]
    if row.get("split") not in SPLITS or type(row.get("step")) is not int or row["step"] < 1:
        raise ValueError("no split or step")
    if not all(isinstance(x, int | float | list) and not isinstance(x, bool) for x in others):
        raise ValueError("a value is not a number")


def read_rows(folder: Path) -> list[Row]:
    """Return the sound rows of a run's `metrics.jsonl`, oldest first.

    Raises:
      UsageError: if the file cannot be read.
    """
    return read_lines(folder).rows


def numbers_to_plot(row: Row) -> dict[str, float]:
    """Return the values of a row that are numbers, except for its step, which is the horizontal axis.

    >>> numbers_to_plot({"split": "test", "step": 7, "loss": 0.5, "recall": [0.1, 0.9]})
    {'loss': 0.5}
    """
    return {name: number for name, number in numbers(row).items() if name != "step"}


class Record:
    """Writes `metrics.jsonl` in a run directory.

    A row has `split` ("train", "validation" or "test"), `step` (number of steps made), `epoch`, and metrics by name:
    numbers, or lists of them. A training row also has `learning_rate`, and a row of an evaluation `examples`. A row of
    "verify" says what was corrupt, and to which step the run has gone back.

    When a run is resumed at `first_step`, rows of later steps are dropped, since these steps are repeated. Lines that
    are damaged are dropped too. The file then contains each step once: a step whose row was lost, by damage or because
    somebody edited the file, has a row without metrics, and one warning reports it.

    Every method raises `RunError` if the file cannot be written.

    Args:
      folder: the run directory.
      first_step: number of steps that the run has made.
      epoch: returns the epoch after a number of steps. Without it, rows of lost steps have no epoch.

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
                "%s lacks %d of the %d steps made so far (%s); they get rows without metrics",
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
        # `write` or `flush` has raised an error of writing already.
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, row: Row) -> None:
        """Write one row. It may stay in a buffer until `flush`."""
        with writing(self._path):
            self._file.write(sealed.line(row, self._run))

    def flush(self) -> None:
        """Hand all rows to the operating system: they survive a kill of this process."""
        with writing(self._path):
            self._file.flush()

    def sync(self) -> None:
        """Write all rows to the disk: they survive a power failure."""
        self.flush()
        with writing(self._path):
            os.fsync(self._file.fileno())


def _epoch(epoch: Callable[[int], float] | None, step: int) -> Row:
    return {} if epoch is None else {"epoch": round(epoch(step), 4)}


def ranges(steps: Sequence[int]) -> str:
    """Return sorted steps as text, with ranges, of which the first are shown.

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
"""Number of ranges of lost steps in a warning."""
