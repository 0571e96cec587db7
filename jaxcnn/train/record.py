"""What a run leaves for later reading: a line of JSON for every step and test, and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxcnn.train.workdir import METRICS

Row = dict[str, Any]


def read_rows(workdir: Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`, oldest first; a last line that was cut off is left out."""
    path = workdir / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Record:
    """Writes `metrics.jsonl` and TensorBoard events in a run's folder.

    A row has `split` ("train" or "test"), `step` (updates made so far), `epoch`, `loss`, `accuracy` and, in
    training, `learning_rate`, in testing, `examples`. Rows from after `first_step`, left by a run that was cut off,
    are dropped, since these steps are made again: each step stands there once.
    """

    def __init__(self, workdir: Path, first_step: int):
        from tensorboardX import SummaryWriter

        kept = [row for row in read_rows(workdir) if row["step"] <= first_step]
        path = workdir / METRICS
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir), purge_step=first_step + 1 if first_step else None)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, row: Row) -> None:
        """Writes one row; `flush` makes sure that it has reached the files."""
        self._file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name not in ("split", "step", "epoch", "examples"):
                self._events.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def flush(self) -> None:
        self._file.flush()
        self._events.flush()
