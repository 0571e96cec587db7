"""The state that a run starts from: its initial state, or its latest checkpoint."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.train.config import differences, to_dict
from jaxcnn.train.devices.distributed import Ignored, from_first, gather, is_first, together
from jaxcnn.train.runtime import data_identity, preprocessing, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.state import TrainState

MOST_NAMED = 8
"""Number of differences between processes that an error names."""

OWN_OF_A_PROCESS = (
    *("accept_changed_data", "data_dir", "data_fingerprint", "dataset", "init_from", "workdir"),
    *("profile", "tensorboard_images", "wandb", "progress"),
)
"""Fields of the configuration that may differ between processes: paths, and what only the first process uses.

The others decide about computations that the processes make together.
"""

NOTHING_YET = {
    "seconds": 0.0,
    "training_seconds": 0.0,
    "images_timed": 0,
    "epoch_total": None,
    "test": None,
    "best_accuracy": None,
    "epochs_since_best": 0,
    "stopped_by": None,
    "kernels": None,
    "pipeline": None,
}
"""Values that are saved beside a state, at the start of a run.

- seconds: wall-clock time of the run so far, over all its processes.
- training_seconds, images_timed: time of training steps, and the images in them.
- epoch_total: sums of the metrics of the current epoch's steps.
- test: metrics of this state on the validation set, or else on the test set, if it was evaluated.
- best_accuracy, epochs_since_best: best monitored metric so far, with the sign changed if the smallest is the best, and
  evaluations since then.
- stopped_by: class name of the callback that stopped the run.
- kernels: those of the latest steps; see `jaxcnn.kernels.in_use`.
- pipeline: state of the iterators of `jaxcnn.data.from_batches`, of each process.

Checkpoints of earlier versions lack some of them.
"""


@dataclass(frozen=True)
class Start:
    """The start of a run. It is equal in all processes, except for the checkpoints, which only the first process has.

    Attributes:
      folder: the run directory (a path on the first process's machine).
      checkpoints: the run's checkpoints.
      state: the state to start from, as host arrays.
      meta: the values that were saved beside the state.
      continued: whether the state is from a checkpoint.
      finished: whether the run directory contains the result already.
      notes: notes for the user, one line each.
    """

    folder: Path
    checkpoints: Checkpoints | Ignored
    state: TrainState
    meta: dict[str, Any]
    continued: bool
    finished: bool
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def claimed(plan: Plan) -> Iterator[Start]:
    """Hold the run directory for this run, and yield the start of the run.

    Raises:
      UsageError: in all processes, if the directory cannot be used or has no intact checkpoint among several, or if the
        processes have different configurations or data.
    """
    identity = _common_identity(plan) if plan.parallel.share[1] > 1 else None
    with contextlib.ExitStack() as held:
        mine = together(lambda: _open(plan, held, identity) if is_first() else None)
        told = gather(mine and [str(mine.folder), mine.meta, mine.continued, mine.finished])[0]
        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), plan.template)
        state = from_first(mine.state if mine else blank)
        yield mine or Start(Path(told[0]), Ignored(), state, *told[1:])


def restore_pipeline(plan: Plan, start: Start) -> None:
    """Let this process's batches continue where those of the checkpoint have ended."""
    states, (process, count) = start.meta["pipeline"], plan.parallel.share
    own = states[process] if isinstance(states, list) and len(states) == count else None
    plan.pipeline.restore(int(start.state.step), own)


def _upgraded(epoch_total: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the sums of an epoch. Version 0.1 called the number of correct predictions "correct"."""
    if epoch_total is None or "correct" not in epoch_total:
        return epoch_total
    return {"accuracy" if name == "correct" else name: total for name, total in epoch_total.items()}


def _common_identity(plan: Plan) -> data_identity.Identity:
    """Return the identity of the data, which is the same in all processes. Every process must call it.

    Each process chooses its rows of a batch from its own copy of the data. With another copy in one process, examples
    would come twice or never, and nothing would show it.

    Raises:
      UsageError: in all processes, if they have different configurations, data or preprocessing.
    """
    identity = together(lambda: data_identity.identity(plan.dataset, plan.config))
    mine = {"config": to_dict(plan.config), "data": identity, "preprocessing": dataclasses.asdict(plan.preprocessing)}
    mine["config"] |= dict.fromkeys(OWN_OF_A_PROCESS)
    digests = gather(hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest())
    if len({*digests}) == 1:
        return identity
    first, *others = gather(mine)
    for process, other in enumerate(others, 1):
        found = differences(first["config"], other["config"], OWN_OF_A_PROCESS)
        found += data_identity.differences(first["data"], other["data"])
        found += differences(first["preprocessing"], other["preprocessing"], ())
        if found:
            more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            raise UsageError(
                f"process {process} differs from process 0: {'; '.join(found[:MOST_NAMED])}{more}. Start all processes "
                "with the same flags and the same data."
            )
    return identity


def _open(plan: Plan, held: contextlib.ExitStack, identity: data_identity.Identity | None) -> Start:
    folder = held.enter_context(workdir.claim(plan.config))
    config = plan.config
    unchecked = workdir.note_on_unchecked(folder, [preprocessing.PREPROCESSING])
    identity = identity or data_identity.identity(plan.dataset, config)
    accept = config.accept_changed_data
    note = data_identity.check(folder, identity, accept=accept)
    checkpoints = held.enter_context(Checkpoints(folder / workdir.CHECKPOINTS))
    found = checkpoints.restore_newest(plan.template)
    state, meta = found or (plan.initial_state(), {})
    meta = {**NOTHING_YET, **meta, "epoch_total": _upgraded(meta.get("epoch_total"))}
    finished = (folder / workdir.RESULT).exists()
    ends = finished and int(state.step) >= plan.steps
    if found is not None and not ends:
        note = note or data_identity.check_division(folder, plan.dataset, accept=accept)
    # Everything has been checked: a run that cannot go on leaves its directory as it was.
    with workdir.writing(folder):
        workdir.write_config(folder, config)
        if note is not None or not (ends and data_identity.is_divided_otherwise(folder, plan.dataset)):
            data_identity.write(folder, identity)
        if not (folder / preprocessing.PREPROCESSING).exists():
            preprocessing.write(folder, plan.preprocessing)
    notes = tuple(said for said in (note, _note_on_kernels(meta["kernels"]), unchecked) if said is not None)
    return Start(folder, checkpoints, state, meta, found is not None, finished, notes)


def _note_on_kernels(before: str | None) -> str | None:
    """Return a note if the steps so far were made with other kernels than the next ones."""
    now = kernels.in_use()
    if before in (None, now):
        return None
    return (
        f"the steps so far were made with {before} kernels and the next ones are made with {now} kernels: results "
        f"differ by rounding from those of one kind. Set {kernels.VARIABLE}={before} to keep to one kind."
    )
