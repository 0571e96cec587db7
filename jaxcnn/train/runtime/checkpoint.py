"""Checkpoints: the state of a run on disk, written by Orbax while training goes on, and verified when read."""

import contextlib
import gc
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.runtime import integrity
from jaxcnn.train.state import TrainState

DAMAGED = "damaged_checkpoints"
"""The folder, beside that of the checkpoints, to which those that cannot be read are moved."""

# What Orbax writes beside the arrays is less than this.
OVERHEAD_BYTES = 2**20

_log = logging.getLogger(__name__)


class SaveError(RunError):
    """A checkpoint that could not be written; the ones before it are kept."""


class DamagedError(RunError):
    """A checkpoint that cannot be read, or is not what was saved."""


def to_host(state: TrainState) -> TrainState:
    """A copy of the state in host memory, which the next training step cannot touch."""
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


class Checkpoints:
    """The checkpoints in a folder: the two latest and the one of the best test accuracy are kept.

    They hold host arrays, and thus know neither devices nor strategy. To be closed when done, which waits for
    what is still being written; a `with` block does so. With `read_only` nothing in the folder changes, so that a
    run which is being trained can be read.
    """

    def __init__(self, directory: Path, *, read_only: bool = False):
        # Orbax reports every save and every file at the level of a warning or below.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        import orbax.checkpoint as ocp

        self._args = ocp.args
        self._directory = directory.absolute()
        self._read_only = read_only
        if not read_only:
            self._directory.mkdir(exist_ok=True)
            self._remove_unfinished()
        # A process saves and reads on its own: which of several saves is not Orbax's affair.
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                read_only=read_only,
                multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
            ),
        )
        self._saving: int | None = None
        self._accuracies = {step: self._accuracy(step) for step in self.steps()}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except SaveError:
            if error is None:  # or it would hide what has gone wrong first
                raise
        finally:
            # What it may still complain about is a save whose failure was told already.
            with contextlib.suppress(Exception):
                self._manager.close()

    def save(self, state: TrainState, meta: dict[str, Any], test_accuracy: float | None = None) -> None:
        """Starts to save a state of host arrays and, beside it, `meta`, which is anything JSON can hold.

        Args:
          state: it must not change until it is written: see `to_host`.
          meta: what comes back with the state.
          test_accuracy: of this state, if it was tested.

        Raises:
          SaveError: there is no space for it, or this or the save before it failed.
        """
        self.wait()
        step = self._saving = int(state.step)
        self._check_disk(state)
        description = {"meta": meta, "test_accuracy": test_accuracy, "leaves": integrity.manifest(state)}
        try:
            self._manager.save(
                step,
                args=self._args.Composite(
                    state=self._args.StandardSave(state), meta=self._args.JsonSave(integrity.seal(description))
                ),
                force=True,  # Orbax would leave out, without a word, a step that it takes to be an old one
            )
        except Exception as error:  # what Orbax and TensorStore raise has no common type
            self._fail(error)
        self._accuracies[step] = test_accuracy

    def wait(self) -> None:
        """Waits until everything is written, and removes checkpoints that are no longer needed.

        Raises:
          SaveError: a save failed.
        """
        if self._saving is None:
            return
        try:
            with _quiet_stragglers():
                self._manager.wait_until_finished()
            if self._saving not in self.steps():
                raise OSError("it did not arrive")
        except Exception as error:
            self._fail(error)
        self._saving = None
        for step in {*self.steps()} - self._kept():
            # Renamed first: what is deleted in part must not look like a checkpoint.
            doomed = self._directory / f"{step}.orbax-checkpoint-tmp"
            (self._directory / f"{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        # Orbax's own list still names these steps, which harms nothing, as none of them is saved again; reading all
        # checkpoints' descriptions anew would take it a third of the time of a small save.

    def check(self) -> None:
        """Raises `SaveError` if a save that is still under way has failed already."""
        try:
            with _quiet_stragglers():
                self._manager.check_for_errors()
        except Exception as error:
            self._fail(error)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included, oldest first."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint that is written, or None."""
        return max(self.steps(), default=None)

    def restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state (as host arrays) and `meta` of a step; `template` has the same tree, shapes and dtypes.

        Raises:
          DamagedError: a checkpoint that cannot be read, or is not what was saved.
          UsageError: one of another tree, shape or dtype than the template; the leaf is named.
        """
        where = f"checkpoint {self._directory}/{step}"
        try:
            description = self._description(step)
            try:
                integrity.check_fits(description["leaves"], template)
            except UsageError as error:
                raise UsageError(f"{where} is of another model or optimizer: {error}") from None
            like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
            args = self._args.Composite(state=self._args.StandardRestore(like))
            with _quiet_stragglers():
                state = self._manager.restore(step, args=args)["state"]
        except UsageError:
            raise
        except Exception as error:  # Orbax and TensorStore raise a zoo of types for damaged files
            raise DamagedError(f"{where} is damaged: {_reason(error)}") from error
        damaged = integrity.damaged_leaf(description["leaves"], state)
        if damaged is not None:
            raise DamagedError(f"{where} is damaged: {damaged} is not what was saved")
        return state, description["meta"]

    def restore_newest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that is sound, or None if there is none at all; arguments as of `restore`.

        Damaged ones that are newer are reported in one warning, and moved to the folder `damaged_checkpoints`.

        Raises:
          UsageError: all checkpoints are damaged, or the newest sound one does not fit the template.
        """
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, template)
            except DamagedError as error:
                damaged[step] = error
                continue
            if damaged:
                _log.warning("%s; going back to step %d", "; ".join(map(str, damaged.values())), step)
                self._move_away([*damaged])
            return found
        if damaged:
            reasons = "; ".join(map(str, damaged.values()))
            raise UsageError(f"no checkpoint can be restored: {reasons}; give another --workdir to begin again")
        return None

    def existing(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """As `restore_newest`, for whom there must be one.

        Raises:
          UsageError: as `restore_newest`, and if there is none.
        """
        found = self.restore_newest(template)
        if found is None:
            raise UsageError(f"{self._directory} holds no checkpoint yet; train first")
        return found

    def _description(self, step: int) -> dict[str, Any]:
        """What is saved beside the state of a step."""
        args = self._args.Composite(meta=self._args.JsonRestore())
        return integrity.unseal(self._manager.restore(step, args=args)["meta"])

    def _accuracy(self, step: int) -> float | None:
        try:
            return self._description(step)["test_accuracy"]
        except Exception:  # a damaged one; `restore` will say so
            return None

    def _kept(self) -> set[int]:
        """The two latest steps, and of those that were tested the best (the latest of equals)."""
        steps = self.steps()
        tested = [step for step in steps if self._accuracies.get(step) is not None]
        return {*steps[-2:], *sorted(tested, key=lambda step: (self._accuracies[step], step))[-1:]}

    def _check_disk(self, state: TrainState) -> None:
        """Looks first: half a save, and what Orbax says of it, help nobody."""
        if not os.access(self._directory, os.W_OK):
            self._fail(OSError("the folder is read-only"))
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            self._fail(OSError(f"it needs {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free"))

    def _fail(self, error: Exception) -> None:
        step, self._saving = self._saving, None
        self._remove_unfinished()
        kept = self.latest_step()
        before = f"the checkpoint of step {kept} is kept" if kept is not None else "there is none before it"
        raise SaveError(
            f"the checkpoint of step {step} could not be written to {self._directory}: {_reason(error)}; {before}"
        ) from error

    def _move_away(self, steps: list[int]) -> None:
        """Out of the way, since these steps are made and saved again."""
        if self._read_only:
            return
        aside = self._directory.with_name(DAMAGED)
        aside.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(aside / f"{step}", ignore_errors=True)
            (self._directory / f"{step}").rename(aside / f"{step}")
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        """Removes what a save that was cut off has left."""
        for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _quiet_stragglers() -> Iterator[None]:
    """Around waits for Orbax, which, when one array fails, leaves the others to print a traceback each at their end."""
    hook, asyncio_log = sys.unraisablehook, logging.getLogger("asyncio")
    level = asyncio_log.level

    def hear(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = hear
    asyncio_log.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception:
        time.sleep(0.5)  # the stragglers end within milliseconds, where other work leaves them a core
        gc.collect()  # and are complained about when they are collected
        raise
    finally:
        sys.unraisablehook = hook
        asyncio_log.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the first cause that says something."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    return text if len(text) < 200 else f"{text[:200]}..."
