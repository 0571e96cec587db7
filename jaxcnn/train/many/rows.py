"""The rows of networks that one program trains, and what other programs read of them."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxcnn.train.callbacks import RunView, call
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.callbacks import built_in
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Row


class Rows:
    """The rows of a group: a JSON line for each step and evaluation, with the metrics of each network.

    Args:
      path: of the file. Rows behind `first_step` are dropped, since these steps are made again.
      first_step: number of steps that the group has made.
    """

    def __init__(self, path: Path, first_step: int):
        kept = [row for row in _read(path) if row["step"] <= first_step]
        with workdir.writing(path):
            with workdir.replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self._file = path.open("a")
        self._path = path

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Sequence[Row]) -> None:
        with workdir.writing(self._path):
            self._file.write("".join(json.dumps(row) + "\n" for row in rows))
            self._file.flush()

    def sync(self) -> None:
        """Write all rows to the disk: they survive a power failure."""
        with workdir.writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())


def _read(path: Path) -> Iterator[Row]:
    """Yield the rows of a group. Rows from the first incomplete line on are left out."""
    if not path.exists():
        return
    with path.open(errors="replace") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                return


def rows_of_network(path: Path, index: int) -> Iterator[Row]:
    """Yield the rows of one network, as in its `metrics.jsonl`."""
    for row in _read(path):
        values = row["networks"][index]
        if values is not None:
            yield {"split": row["split"], "step": row["step"], "epoch": row["epoch"], **values}


def track(plan: Plan, folder: Path, rows: list[Row]) -> None:
    """Hand the rows of a network to TensorBoard and Weights & Biases, as its own training loop would have done."""
    trackers = built_in(wandb=plan.config.wandb, profile=None, show=print)
    view = RunView(
        step=0,
        epoch=0.0,
        steps=plan.steps,
        first_step=0,
        folder=folder,
        config=plan.config,
        fetch_state=plan.initial_state,
        fetch_metrics=dict,
        run_evaluation=lambda split: {},
    )
    call(trackers, "on_start", view)
    call(trackers, "on_rows", view, rows)
    call(trackers, "on_end", view, False)
