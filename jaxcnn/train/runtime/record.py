"""Metrics of a run: a JSON line for every step and every evaluation."""

import contextlib
import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxcnn.train.metrics import numbers
from jaxcnn.train.runtime.workdir import METRICS, replacing, writing

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a run's `metrics.jsonl`, oldest first. Rows from the first incomplete line on are left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def numbers_to_plot(row: Row) -> dict[str, float]:
    """Return the values of a row that are numbers, except for its step, which is the horizontal axis.

    >>> numbers_to_plot({"split": "test", "step": 7, "loss": 0.5, "recall": [0.1, 0.9]})
    {'loss': 0.5}
    """
    return {name: number for name, number in numbers(row).items() if name != "step"}


class Record:
    """Writes `metrics.jsonl` in a run directory.

    A row has `split` ("train", "validation" or "test"), `step` (number of steps made), `epoch`, and metrics by name:
    numbers, or lists of them. A training row also has `learning_rate`, and a row of an evaluation `examples`.

    When a run is resumed at `first_step`, rows of later steps are dropped, since these steps are made again: the file
    contains each step once. Rows that are missing, because somebody edited the file, are reported in one warning.

    Every method raises `RunError` if the file cannot be written.

    Args:
      folder: the run directory.
      first_step: number of steps that the run has made.
    """

    def __init__(self, folder: Path, first_step: int):
        self._path = folder / METRICS
        kept = [row for row in read_rows(folder) if row["step"] <= first_step]
        lost = first_step - len({row["step"] for row in kept if row["split"] == "train"})
        if lost:
            _log.warning("%s lacks %d of the %d steps made so far", self._path, lost, first_step)
        with writing(self._path):
            with replacing(self._path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
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
            self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Hand all rows to the operating system: they survive a kill of this process."""
        with writing(self._path):
            self._file.flush()

    def sync(self) -> None:
        """Write all rows to the disk: they survive a power failure."""
        self.flush()
        with writing(self._path):
            os.fsync(self._file.fileno())
