"""Save, verify and restore the checkpoints of a run."""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from jaxcnn._scoped import quiet_logger
from jaxcnn.errors import UsageError, printable
from jaxcnn.train.devices import waits
from jaxcnn.train.runtime import integrity, workdir
from jaxcnn.train.runtime.checkpoint import _description, _folders
from jaxcnn.train.runtime.checkpoint._errors import DamagedError, SaveError, dropped_prints, quiet_stragglers, reason
from jaxcnn.train.runtime.checkpoint._place import Place, check_directory
from jaxcnn.train.state import TrainState

OVERHEAD_BYTES = 2**20
"""Upper bound of the bytes that Orbax writes for a checkpoint in addition to its arrays."""

LONGEST_SAVE = 10 * 365 * 86_400
"""Seconds after which Orbax gives up a save. Adjusting the system clock could end a save too."""

_log = logging.getLogger(__name__)


def to_host(state: TrainState) -> TrainState:
    """Return a copy of the state in host memory. Later training steps do not change the copy."""
    return jax.tree.map(lambda x: np.array(jax.device_get(x), copy=True), state)


class Checkpoints:
    """The checkpoints of a run. The two latest checkpoints and the checkpoint of the best evaluation are kept.

    Checkpoints contain host arrays, so that a run can be resumed on other devices and with another `parallel` setting.
    Use this class in a `with` block: the end of the block waits for unfinished writes. A checkpoint counts as damaged
    if it belongs to another run, or if the name of its folder is the number of another step.

    Args:
      directory: the folder of the checkpoints in the run directory. If the folder does not exist, it is created.
      read_only: whether to leave all files in the folder unchanged. With True, the run may be training at the same
        time.

    Raises:
      UsageError: if `directory` is a file, or if its path is not UTF-8.
    """

    def __init__(self, directory: Path, *, read_only: bool = False):
        import orbax.checkpoint as ocp

        self._args = ocp.args
        self._directory = directory.absolute()
        self._read_only = read_only
        self._run = workdir.run_of(directory.parent)
        check_directory(self._directory)
        self._place = None
        if not read_only:
            self._directory.mkdir(exist_ok=True)
            _folders.remove_unfinished(self._directory)
            self._place = Place(self._directory)
        with contextlib.ExitStack() as held:
            # Orbax logs every save and every file, as warnings too, and from background threads at any time.
            held.enter_context(quiet_logger("absl", logging.CRITICAL))
            # A save that fails in a background thread prints a traceback at once.
            held.enter_context(dropped_prints())
            # Each process saves and reads its own checkpoints, so Orbax must not wait for other processes.
            me = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
            )
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    create=False,
                    read_only=read_only,
                    async_options=ocp.options.AsyncOptions(timeout_secs=LONGEST_SAVE),
                    multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
                ),
            )
            self._saving: int | None = None
            self._scores = {step: self._score(step) for step in self.steps()}
            self._held = held.pop_all()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            try:
                if self._saving is not None:
                    self.wait()
            except SaveError:
                if error is None:  # otherwise the failed save would hide the earlier error
                    raise
            finally:
                # `close` may raise the error of a failed save a second time.
                with contextlib.suppress(Exception), quiet_stragglers():
                    self._manager.close()
                if self._place and self._place.is_left():  # Orbax has created the moved folder again at its old path
                    _folders.remove_unfinished(self._directory)
                    with contextlib.suppress(OSError):
                        self._directory.rmdir()

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Start to save a state. When the checkpoint is written, it replaces an existing checkpoint of the same step.

        Args:
          state: host arrays, which must not change until the checkpoint is written; see `to_host`.
          meta: JSON values that are restored together with the state.
          score: the monitored metric of this state, or None if the state was not evaluated. The largest score is the
            best.

        Raises:
          SaveError: if the disk has too little space, if this save or the previous save failed, or if the folder of the
            checkpoints was moved or removed.
        """
        self.wait()
        step = self._saving = int(state.step)
        self._check_disk(state)
        description = _description.describe(state, meta, score, self._run)
        args = self._args.Composite(
            state=self._args.StandardSave(_without_empty(state)), meta=self._args.JsonSave(integrity.seal(description))
        )
        try:
            if step in self.steps():  # the run was stopped after this step and before its evaluation
                self._folder_of(step).rename(self._folder_of(step, _folders.REPLACED))
                self._manager.reload()
            with quiet_stragglers():
                # Without `force`, Orbax silently skips a step that is not larger than its latest step.
                self._manager.save(step, args=args, force=True)
        except Exception as error:  # Orbax and TensorStore raise errors of many types
            self._fail(error)
        self._scores[step] = score

    def wait(self) -> None:
        """Wait until the checkpoint is written, and remove checkpoints that are no longer needed.

        Raises:
          SaveError: if the save failed, or if the folder of the checkpoints was moved or removed.
        """
        self._check_place()
        if self._saving is None:
            return
        try:
            with quiet_stragglers(), waits.waiting("the disk, to write a checkpoint"):
                self._manager.wait_until_finished()
            if self._saving not in self.steps():
                raise OSError("the folder of the checkpoint is missing after the save")
        except Exception as error:
            self._fail(error)
        shutil.rmtree(self._folder_of(self._saving, _folders.REPLACED), ignore_errors=True)
        self._saving = None
        for step in {*self.steps()} - self._kept():
            # The folder is renamed first, so that a partly deleted folder does not look like a checkpoint.
            doomed = self._directory / f"{step}.orbax-checkpoint-tmp"
            (self._directory / f"{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        # The CheckpointManager still lists the removed steps, which are never saved again. Reloading its list would
        # take a third of the time of a small save.

    def check(self) -> None:
        """Raise `SaveError` if an unfinished save has failed already."""
        try:
            with quiet_stragglers():
                self._manager.check_for_errors()
        except Exception as error:
            self._fail(error)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, including damaged checkpoints, in ascending order."""
        if not self._directory.is_dir():
            return []
        found = map(_description.step_of, self._directory.iterdir())
        return sorted(step for step in found if step is not None)

    def latest_step(self) -> int | None:
        """Return the step of the newest completely written checkpoint, or None if there is no checkpoint."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step of the checkpoint with the best evaluation, or None if no checkpoint was evaluated.

        Among equal evaluations, the latest step wins.
        """
        tested = [step for step in self.steps() if self._scores.get(step) is not None]
        return max(tested, key=lambda step: (self._scores[step], step), default=None)

    def restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the state of a checkpoint, as host arrays, and its `meta` values. For `template`, see `chosen`.

        Raises:
          DamagedError: if the checkpoint cannot be read, or differs from the saved state.
          UsageError: if a leaf does not fit the template, or if this process has other JAX options for random numbers
            than the process that saved the checkpoint. The error message names the leaf or the option.
        """
        where = f"checkpoint {self._directory}/{step}"
        try:
            description = self._description(step)
            _description.check_random_numbers(where, description, read_only=self._read_only)
            try:
                integrity.check_fits(description["leaves"], template)
            except UsageError as error:
                raise UsageError(f"{where} belongs to another model or optimizer: {error}") from None
            like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
            args = self._args.Composite(state=self._args.StandardRestore(_without_empty(like)))
            with quiet_stragglers():
                stored = self._manager.restore(step, args=args)["state"]
            state = jax.tree.map(lambda x, wanted: x if wanted.size else wanted, stored, like)
        except UsageError:
            raise
        except Exception as error:  # Orbax and TensorStore raise errors of many types for damaged files
            raise DamagedError(f"{where} is damaged: {reason(error)}") from error
        damaged = integrity.damaged_leaf(description["leaves"], state)
        if damaged is not None:
            raise DamagedError(f"{where} is damaged: {damaged} differs from the saved array")
        if int(state.step) != step:
            raise DamagedError(f"{where} is damaged: the checkpoint holds the state of step {int(state.step)}")
        return state, description["meta"]

    def learned(self) -> dict[str, Any]:
        """Return the parameters and batch statistics of the newest checkpoint, without needing the model.

        If the checkpoint contains moving averages of parameters and batch statistics, return the moving averages.

        Raises:
          UsageError: if there is no checkpoint, or if the newest checkpoint is damaged.
        """
        step = self.latest_step()
        if step is None:
            raise UsageError(f"{self._directory} holds no checkpoint yet. Train the run first.")
        try:
            stored = self.verify(step)
        except DamagedError as error:
            raise UsageError(
                f"{error}. Restore the checkpoint, or remove its folder to use an earlier checkpoint."
            ) from error
        parts = {name: stored.get(name) or {} for name in ("params", "batch_stats", "ema")}
        return parts["ema"] or {name: parts[name] for name in ("params", "batch_stats")}

    def verify(self, step: int) -> dict[str, Any]:
        """Check every array of a checkpoint, and return the arrays as nested dicts. The model is not needed.

        Raises:
          DamagedError: if the checkpoint cannot be read, or differs from the saved state.
        """
        where = f"checkpoint {self._directory}/{step}"
        try:
            saved = self._description(step)["leaves"]
            with quiet_stragglers():
                stored = self._manager.restore(step, args=self._args.Composite(state=self._args.StandardRestore()))
            leaves = integrity.named_leaves(stored["state"])
            damaged = integrity.damaged_name(saved, leaves)
            found = int(leaves["step"])
        except Exception as error:  # Orbax and TensorStore raise errors of many types for damaged files
            raise DamagedError(f"{where} is damaged: {reason(error)}") from error
        if damaged is not None:
            raise DamagedError(f"{where} is damaged: {damaged} differs from the saved array")
        if found != step:
            raise DamagedError(f"{where} is damaged: the checkpoint holds the state of step {found}")
        return stored["state"]

    def restore_newest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the state and `meta` of the newest intact checkpoint, or None if there is no checkpoint at all.

        Newer, damaged checkpoints are reported in one warning and moved to the folder `damaged_checkpoints`.

        Raises:
          UsageError: if all checkpoints are damaged, or if the newest intact checkpoint does not fit the template.
        """
        damaged: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, template)
            except DamagedError as error:
                damaged[step] = error
                continue
            if damaged:
                _log.warning("%s; returning to step %d", printable("; ".join(map(str, damaged.values()))), step)
                if not self._read_only:
                    _folders.move_away(self._directory, [*damaged])
                    self._manager.reload()
            return found
        if damaged:
            reasons = "; ".join(map(str, damaged.values()))
            raise UsageError(f"no checkpoint can be restored: {reasons}. Start again in another --workdir.")
        return None

    def existing(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and `meta` of the newest intact checkpoint.

        Raises:
          UsageError: if there is no checkpoint, if all checkpoints are damaged, or if the newest intact checkpoint does
            not fit the template.
        """
        found = self.restore_newest(template)
        if found is None:
            raise UsageError(f"{self._directory} holds no checkpoint yet. Train the run first.")
        return found

    def chosen(self, checkpoint: str | int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and `meta` of the checkpoint that the user has chosen.

        Args:
          checkpoint: "latest" (the newest intact checkpoint), "best" (the checkpoint of the best evaluation), or the
            step of a checkpoint.
          template: pytree with the structure of the training state, and with the shapes and dtypes of its arrays.

        Raises:
          UsageError: if the chosen checkpoint does not exist, is damaged, or does not fit the template.
        """
        if checkpoint == "latest" or not self.steps():
            return self.existing(template)
        try:
            return self.restore(self._chosen_step(checkpoint), template)
        except DamagedError as error:
            raise UsageError(f"{error}. Choose another checkpoint with --checkpoint.") from error

    def _chosen_step(self, checkpoint: str | int) -> int:
        kept = ", ".join(map(str, self.steps()))
        if checkpoint == "best":
            best = self.best_step()
            if best is None:
                raise UsageError(f"no checkpoint in {self._directory} was evaluated. Choose one of the steps {kept}.")
            return best
        text = str(checkpoint)
        if not (text.isascii() and text.isdecimal()):
            raise UsageError(f"checkpoint must be latest, best or a step, got {text[:40]!r}. Steps kept: {kept}.")
        if text.lstrip("0") not in {str(step).lstrip("0") for step in self.steps()}:
            raise UsageError(f"no checkpoint of step {text[:40]} in {self._directory}. Steps kept: {kept}.")
        return int(text)

    def _description(self, step: int) -> dict[str, Any]:
        """Return the description that is saved with the state of a step. Any error means that it is damaged."""
        args = self._args.Composite(meta=self._args.JsonRestore())
        description = integrity.unseal(self._manager.restore(step, args=args)["meta"])
        _description.check_identity(description, step, self._run)
        return description

    def _score(self, step: int) -> float | None:
        try:
            description = self._description(step)
            return description.get(
                "score", description.get("test_accuracy")
            )  # version 0.1 called the score "test_accuracy"
        except Exception:  # the checkpoint is damaged, which `restore` reports
            return None

    def _kept(self) -> set[int]:
        """Return the steps of the checkpoints to keep: the two latest, and the step of the best evaluation."""
        best = self.best_step()
        return {*self.steps()[-2:], *(() if best is None else (best,))}

    def _check_place(self) -> None:
        if self._place is not None and self._place.is_left():
            self._saving = None
            raise SaveError(
                f"{self._directory} has been moved or removed, or its disk is gone. "
                "The checkpoints in the moved folder are kept"
            )

    def _check_disk(self, state: TrainState) -> None:
        """Raise `SaveError` if the folder is read-only or the disk has too little space for the state."""
        if not os.access(self._directory, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            self._fail(OSError("the folder is read-only"))
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            self._fail(
                OSError(f"the checkpoint needs {needed / 1e6:,.1f} MB of disk space, but {free / 1e6:,.1f} MB are free")
            )

    def _fail(self, error: Exception) -> None:
        self._check_place()
        step, self._saving = self._saving, None
        _folders.remove_unfinished(self._directory)
        try:
            kept = self.latest_step()
            before = f"the checkpoint of step {kept} is kept" if kept is not None else "there is no earlier checkpoint"
        except OSError as unreadable:
            before = f"earlier checkpoints cannot be read: {unreadable.strerror}"
        raise SaveError(
            f"the checkpoint of step {step} could not be written to {self._directory}: {reason(error)}; {before}"
        ) from error

    def _folder_of(self, step: int, suffix: str = "") -> Path:
        return self._directory / f"{step}{suffix}"


def _without_empty(state: Any) -> Any:
    """Replace arrays of size 0, which Orbax cannot save, by arrays of one zero."""
    return jax.tree.map(lambda x: x if x.size else np.zeros(1, x.dtype), state)
