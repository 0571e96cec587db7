"""Where a run starts: at its beginning, or where its folder says that it has come to."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.train.devices.distributed import Silent, from_first, gather, is_first, together
from jaxcnn.train.runtime import preprocessing, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import TrainState

# What is saved beside the state: seconds of all starts so far, those of training in which speed is measured, the
# metrics of the epoch's steps so far, and the test of this state, if it is at an epoch's end and there was time.
NOTHING_YET = {"seconds": 0.0, "training_seconds": 0.0, "images_timed": 0, "epoch_total": None, "test": None}


@dataclass(frozen=True)
class Start:
    """What a run starts from. The same in all processes, but for the checkpoints, which only the first has.

    Attributes:
      folder: the run's folder (a path on the first process's machine).
      state: to go on from, as host arrays.
      meta: what was saved beside the state.
      continued: whether the state is from a checkpoint.
      finished: whether the folder has the run's result already.
    """

    folder: Path
    checkpoints: Checkpoints | Silent
    state: TrainState
    meta: dict[str, Any]
    continued: bool
    finished: bool


@contextlib.contextmanager
def claimed(plan: Plan) -> Iterator[Start]:
    """Holds the run's folder for this run, and finds out where it starts.

    Raises:
      UsageError: in all processes, a folder that cannot be taken, or checkpoints none of which is sound.
    """
    with contextlib.ExitStack() as held:
        mine = together(lambda: _open(plan, held) if is_first() else None)
        told = gather(mine and [str(mine.folder), mine.meta, mine.continued, mine.finished])[0]
        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), plan.template)
        state = from_first(mine.state if mine else blank)
        yield mine or Start(Path(told[0]), Silent(), state, *told[1:])


def _open(plan: Plan, held: contextlib.ExitStack) -> Start:
    folder = held.enter_context(workdir.claim(plan.config))
    preprocessing.write(folder, Preprocessing.of(plan.dataset, plan.config.image_size))
    checkpoints = held.enter_context(Checkpoints(folder / workdir.CHECKPOINTS))
    found = checkpoints.restore_newest(plan.template)
    state, meta = found or (plan.initial_state(), NOTHING_YET)
    return Start(folder, checkpoints, state, meta, found is not None, (folder / workdir.RESULT).exists())
