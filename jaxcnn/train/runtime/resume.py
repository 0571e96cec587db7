"""Find the state that a run starts from: its initial state, or its latest checkpoint."""

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
"""Largest number of differences between two processes that an error message lists."""

OWN_OF_A_PROCESS = (
    *("accept_changed_data", "data_dir", "data_fingerprint", "dataset", "init_from", "workdir"),
    *("profile", "tensorboard_images", "wandb", "progress"),
)
"""Fields of the configuration that may differ between processes: paths, and fields that only the first process uses.

All other fields must be equal, since they change the computations that the processes make together.
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
"""Initial values of the fields that checkpoints store beside the training state.

- seconds: wall-clock time of the run so far, including the time before each resumption.
- training_seconds, images_timed: time of the training steps so far, and number of images in these steps.
- epoch_total: sums of the metrics over the steps of the current epoch so far.
- test: metrics of this state on the validation set, or else on the test set. None if the state was not evaluated.
- best_accuracy: best monitored metric so far, negated if smaller values are better.
- epochs_since_best: number of evaluations since the best evaluation.
- stopped_by: class name of the callback that stopped the run.
- kernels: kind of kernels that computed the latest steps; see `jaxcnn.kernels.in_use`.
- pipeline: for each process, the state of its iterator from `jaxcnn.data.from_batches`.

Checkpoints of earlier versions lack some of these fields.
"""


@dataclass(frozen=True)
class Start:
    """The state and the files that a run starts from. All processes have equal values, except for `checkpoints`.

    Attributes:
      folder: path of the run directory on the machine of the first process.
      checkpoints: the run's checkpoints. In all processes except the first, this is an object that ignores all calls.
      state: training state to start from, as host arrays.
      meta: values that were saved beside the state; see `NOTHING_YET`.
      continued: whether the state is from a checkpoint.
      finished: whether the run directory already contains `result.json`.
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
    """Lock the run directory for this run, and yield the state and the files that the run starts from.

    Raises:
      UsageError: in all processes, if the run directory cannot be used, if all its checkpoints are damaged, or if the
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
    """Set this process's input pipeline to the batch that follows the checkpoint."""
    states, (process, count) = start.meta["pipeline"], plan.parallel.share
    own = states[process] if isinstance(states, list) and len(states) == count else None
    plan.pipeline.restore(int(start.state.step), own)


def _upgraded(epoch_total: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the metric sums of an epoch. Rename the sum "correct", as version 0.1 called it, to "accuracy"."""
    if epoch_total is None or "correct" not in epoch_total:
        return epoch_total
    return {"accuracy" if name == "correct" else name: total for name, total in epoch_total.items()}


def _common_identity(plan: Plan) -> data_identity.Identity:
    """Return the identity of the data, which must be equal in all processes. Every process must call this function.

    Each process reads its part of each batch from its own copy of the data. If the copies differed, some examples would
    be used twice or never, without an error.

    Raises:
      UsageError: in all processes, if the processes have different configurations, data or preprocessing.
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
    # Files are written only after all checks, so that a run that cannot continue leaves its directory unchanged.
    with workdir.writing(folder):
        workdir.write_config(folder, config)
        if note is not None or not (ends and data_identity.is_divided_otherwise(folder, plan.dataset)):
            data_identity.write(folder, identity)
        if not (folder / preprocessing.PREPROCESSING).exists():
            preprocessing.write(folder, plan.preprocessing)
    notes = tuple(said for said in (note, _note_on_kernels(meta["kernels"]), unchecked) if said is not None)
    return Start(folder, checkpoints, state, meta, found is not None, finished, notes)


def _note_on_kernels(before: str | None) -> str | None:
    """Return a note if the steps so far were made with other kernels than this process uses, else None."""
    now = kernels.in_use()
    if before in (None, now):
        return None
    return (
        f"the steps so far were made with {before} kernels, but this process uses {now} kernels, whose results differ "
        f"by rounding. Set {kernels.VARIABLE}={before} to use the same kernels for the whole run."
    )
