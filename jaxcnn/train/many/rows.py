"""Write and read `metrics.jsonl` of a group: the metrics of networks that one program trains together."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxcnn.errors import UsageError
from jaxcnn.train.callbacks import RunView, call
from jaxcnn.train.runtime import sealed, workdir
from jaxcnn.train.runtime.callbacks import built_in
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Row

OWN = ""
"""Text that the checksums of a group's `metrics.jsonl` contain, in place of the identity of a run."""

_log = logging.getLogger(__name__)


class Rows:
    """Write a group's `metrics.jsonl`: a line of JSON for each step and evaluation, with the metrics of each network.

    If the file exists, damaged rows and rows of steps after `first_step` are dropped, since these steps are repeated.
    If the row of an earlier step was lost, the step gets a row without metrics.

    Args:
      path: path of the file.
      first_step: number of steps that the group has made.
      networks: number of networks.
      epoch: function that returns the epoch after a number of steps.
    """

    def __init__(self, path: Path, first_step: int, networks: int, epoch: Callable[[int], float]):
        kept = [row for row in _read(path) if row["step"] <= first_step]
        made = {row["step"] for row in kept if row["split"] == "train"}
        lost = [step for step in range(1, first_step + 1) if step not in made]
        if lost:
            _log.warning("%s has no rows for %d of the %d steps of the run so far", path, len(lost), first_step)
            empty = {"networks": [{}] * networks}
            kept += [{"split": "train", "step": step, "epoch": round(epoch(step), 4), **empty} for step in lost]
            kept.sort(key=lambda row: (row["step"], row["split"] != "train"))
        with workdir.writing(path):
            with workdir.replacing(path) as temporary:
                temporary.write_text("".join(sealed.line(row, OWN) for row in kept))
            self._file = path.open("a")
        self._path = path

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Sequence[Row]) -> None:
        with workdir.writing(self._path):
            self._file.write("".join(sealed.line(row, OWN) for row in rows))
            self._file.flush()

    def sync(self) -> None:
        """Write all rows to the disk, so that they are not lost in a power failure."""
        with workdir.writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())


def _read(path: Path) -> Iterator[Row]:
    """Yield the intact rows of a group's `metrics.jsonl`. Raise `UsageError` if the file cannot be read."""
    try:
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    row, _ = sealed.row_of(line, OWN)
                    if {"split", "step", "epoch", "networks"} <= row.keys():
                        yield row
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Move the file away.") from error


def rows_of_network(path: Path, index: int) -> Iterator[Row]:
    """Yield the rows of one network from a group's file, in the format of the `metrics.jsonl` of a run."""
    for row in _read(path):
        values = row["networks"][index]
        if values is not None:
            yield {"split": row["split"], "step": row["step"], "epoch": row["epoch"], **values}


def track(plan: Plan, folder: Path, rows: list[Row]) -> None:
    """Pass the rows of a network to TensorBoard and Weights & Biases, as `fit` would do for this network."""
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
