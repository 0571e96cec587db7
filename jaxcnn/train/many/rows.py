"""The rows of networks that one program trains, and what other programs read of them."""

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
"""Name in the checksums of a group's lines, where those of a run have the run."""

_log = logging.getLogger(__name__)


class Rows:
    """The rows of a group: a JSON line for each step and evaluation, with the metrics of each network.

    Args:
      path: of the file. Damaged rows are dropped, and rows behind `first_step`, since these steps are repeated.
      first_step: number of steps that the group has made. Those whose row was lost get one without metrics.
      networks: number of networks.
      epoch: returns the epoch after a number of steps.
    """

    def __init__(self, path: Path, first_step: int, networks: int, epoch: Callable[[int], float]):
        kept = [row for row in _read(path) if row["step"] <= first_step]
        made = {row["step"] for row in kept if row["split"] == "train"}
        lost = [step for step in range(1, first_step + 1) if step not in made]
        if lost:
            _log.warning("%s lacks %d of the %d steps made so far", path, len(lost), first_step)
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
        """Write all rows to the disk: they survive a power failure."""
        with workdir.writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())


def _read(path: Path) -> Iterator[Row]:
    """Yield the sound rows of a group. Raise `UsageError` if the file cannot be read."""
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
        raise UsageError(f"{path} cannot be read: {error.strerror}. Move it away.") from error


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
