"""Checkpoints: the state of a run on disk, written by Orbax while training continues, and verified when read."""

import contextlib
import gc
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from jaxcnn._scoped import ignored_unraisable, quiet_logger
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.runtime import integrity
from jaxcnn.train.state import TrainState

DAMAGED = "damaged_checkpoints"
"""Folder beside that of the checkpoints, to which unreadable checkpoints are moved."""

OVERHEAD_BYTES = 2**20
"""Upper bound of what Orbax writes beside the arrays."""

IMPLEMENTATION = "jax_default_prng_impl"
RANDOM_NUMBER_OPTIONS = (IMPLEMENTATION, "jax_threefry_partitionable")
"""Options of JAX on which random numbers depend. A run can be resumed only under the same values."""

_log = logging.getLogger(__name__)


class SaveError(RunError):
    """A checkpoint could not be written. Earlier checkpoints are kept."""


class DamagedError(RunError):
    """A checkpoint cannot be read, or differs from what was saved."""


def to_host(state: TrainState) -> TrainState:
    """Return a copy of the state in host memory, which the next training step cannot change."""
    return jax.tree.map(lambda x: np.array(jax.device_get(x), copy=True), state)


class Checkpoints:
    """The checkpoints in a folder: the two latest and the one of the best evaluation are kept.

    They contain host arrays, so they depend neither on devices nor on the strategy. Use it in a `with` block, whose end
    waits for unfinished writes.

    Args:
      directory: the folder, created if it does not exist.
      read_only: change nothing in the folder, so that the run may be training meanwhile.
    """

    def __init__(self, directory: Path, *, read_only: bool = False):
        import orbax.checkpoint as ocp

        self._args = ocp.args
        self._directory = directory.absolute()
        self._read_only = read_only
        if not read_only:
            self._directory.mkdir(exist_ok=True)
            self._remove_unfinished()
        with contextlib.ExitStack() as held:
            # Orbax logs every save and every file, at levels up to warnings, also from its threads between the calls.
            held.enter_context(quiet_logger("absl", logging.CRITICAL))
            # Each process saves and reads on its own: Orbax need not coordinate them.
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
            self._scores = {step: self._score(step) for step in self.steps()}
            self._held = held.pop_all()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            try:
                self.wait()
            except SaveError:
                if error is None:  # it must not hide an earlier error
                    raise
            finally:
                # Closing may raise the error of a save again.
                with contextlib.suppress(Exception):
                    self._manager.close()

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Start to save a state.

        Args:
          state: host arrays, which must not change until they are written; see `to_host`.
          meta: JSON values that are restored with the state.
          score: the monitored metric of this state, if it was evaluated; the largest is the best.

        Raises:
          SaveError: if the disk has no space for it, or if this save or the one before failed.
        """
        self.wait()
        step = self._saving = int(state.step)
        self._check_disk(state)
        description = {
            "meta": meta,
            "score": score,
            "leaves": integrity.manifest(state),
            "random_numbers": _random_numbers(),
        }
        try:
            self._manager.save(
                step,
                args=self._args.Composite(
                    state=self._args.StandardSave(_without_empty(state)),
                    meta=self._args.JsonSave(integrity.seal(description)),
                ),
                force=True,  # otherwise Orbax silently skips a step that it takes for an old one
            )
        except Exception as error:  # Orbax and TensorStore have no common type of errors
            self._fail(error)
        self._scores[step] = score

    def wait(self) -> None:
        """Wait until everything is written, and remove checkpoints that are no longer needed.

        Raises:
          SaveError: if a save failed.
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
            # Renamed first: a partly deleted folder must not look like a checkpoint.
            doomed = self._directory / f"{step}.orbax-checkpoint-tmp"
            (self._directory / f"{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        # Orbax's own list still has these steps. That is harmless, since none of them is saved again, and reloading the
        # list takes a third of the time of a small save.

    def check(self) -> None:
        """Raise `SaveError` if an unfinished save has failed already."""
        try:
            with _quiet_stragglers():
                self._manager.check_for_errors()
        except Exception as error:
            self._fail(error)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, including damaged ones, oldest first."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def latest_step(self) -> int | None:
        """Return the step of the newest completely written checkpoint, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step of the best evaluation (the latest of equal ones), or None if no checkpoint was evaluated."""
        tested = [step for step in self.steps() if self._scores.get(step) is not None]
        return max(tested, key=lambda step: (self._scores[step], step), default=None)

    def restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the state (host arrays) and `meta` of a step. `template` has the state's tree, shapes and dtypes.

        Raises:
          DamagedError: if the checkpoint cannot be read, or differs from what was saved.
          UsageError: if a leaf, which is named, does not fit the template, or if random numbers are not the same as in
            the process that saved the checkpoint.
        """
        where = f"checkpoint {self._directory}/{step}"
        try:
            description = self._description(step)
            self._check_random_numbers(where, description)
            try:
                integrity.check_fits(description["leaves"], template)
            except UsageError as error:
                raise UsageError(f"{where} is of another model or optimizer: {error}") from None
            like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
            args = self._args.Composite(state=self._args.StandardRestore(_without_empty(like)))
            with _quiet_stragglers():
                stored = self._manager.restore(step, args=args)["state"]
            state = jax.tree.map(lambda x, wanted: x if wanted.size else wanted, stored, like)
        except UsageError:
            raise
        except Exception as error:  # Orbax and TensorStore have no common type of errors for damaged files
            raise DamagedError(f"{where} is damaged: {_reason(error)}") from error
        damaged = integrity.damaged_leaf(description["leaves"], state)
        if damaged is not None:
            raise DamagedError(f"{where} is damaged: {damaged} is not what was saved")
        return state, description["meta"]

    def learned(self) -> dict[str, Any]:
        """Return parameters and statistics of the newest checkpoint, or their averages if it has them.

        The model is not needed.

        Raises:
          UsageError: if there is no checkpoint, or if it is damaged.
        """
        step = self.latest_step()
        if step is None:
            raise UsageError(f"{self._directory} holds no checkpoint yet. Train the run first.")
        try:
            saved = self._description(step)["leaves"]
            with _quiet_stragglers():
                stored = self._manager.restore(step, args=self._args.Composite(state=self._args.StandardRestore()))
            parts = {name: stored["state"].get(name) or {} for name in ("params", "batch_stats", "ema")}
        except Exception as error:  # Orbax and TensorStore have no common type of errors for damaged files
            raise UsageError(f"checkpoint {self._directory}/{step} is damaged: {_reason(error)}") from error
        damaged = integrity.damaged_leaf(saved, parts)
        if damaged is not None:
            raise UsageError(f"checkpoint {self._directory}/{step} is damaged: {damaged} is not what was saved")
        return parts["ema"] or {name: parts[name] for name in ("params", "batch_stats")}

    def restore_newest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the newest intact checkpoint as `restore` does, or None if there is no checkpoint at all.

        Newer, damaged ones are reported in one warning and moved to the folder `damaged_checkpoints`.

        Raises:
          UsageError: if all checkpoints are damaged, or if the newest intact one does not fit the template.
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
            raise UsageError(f"no checkpoint can be restored: {reasons}. Start again in another --workdir.")
        return None

    def existing(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the newest intact checkpoint as `restore` does.

        Raises:
          UsageError: as `restore_newest`, and if there is no checkpoint.
        """
        found = self.restore_newest(template)
        if found is None:
            raise UsageError(f"{self._directory} holds no checkpoint yet. Train the run first.")
        return found

    def chosen(self, checkpoint: str | int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return a checkpoint as `restore` does.

        Args:
          checkpoint: "latest" (the newest intact one), "best" (of the best evaluation), or a step.
          template: as in `restore`.

        Raises:
          UsageError: as `existing`, and if there is no such checkpoint or if it is damaged.
        """
        if checkpoint == "latest" or not self.steps():
            return self.existing(template)
        try:
            return self.restore(self._chosen_step(checkpoint), template)
        except DamagedError as error:
            raise UsageError(f"{error}. Choose another with --checkpoint.") from error

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
        """Return what is saved beside the state of a step."""
        args = self._args.Composite(meta=self._args.JsonRestore())
        return integrity.unseal(self._manager.restore(step, args=args)["meta"])

    def _score(self, step: int) -> float | None:
        try:
            description = self._description(step)
            return description.get("score", description.get("test_accuracy"))  # the name in version 0.1
        except Exception:  # damaged; `restore` reports it
            return None

    def _check_random_numbers(self, where: str, description: dict[str, Any]) -> None:
        """Raise `UsageError` if a checkpoint was saved under other options for random numbers.

        Version 0.1 did not record these options, but the length of the key tells most implementations apart. A state
        that is only read needs no random numbers; only its key must have the same length.
        """
        now = _random_numbers()
        saved = description.get("random_numbers")
        if saved is None:
            (words,) = description["leaves"]["key"]["shape"]
            (expected,) = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
            saved = {} if words == expected else {IMPLEMENTATION: "threefry2x32" if words == 2 else "rbg"}
        for name, value in saved.items():
            if now.get(name) != value and (name == IMPLEMENTATION or not self._read_only):
                raise UsageError(
                    f"{where} was saved with {name} {value!r}, but this process uses {now.get(name)!r}, so that its "
                    f"random numbers would differ. Start it with {name.upper()}={value}"
                )

    def _kept(self) -> set[int]:
        """Return the two latest steps and the one of the best evaluation."""
        best = self.best_step()
        return {*self.steps()[-2:], *(() if best is None else (best,))}

    def _check_disk(self, state: TrainState) -> None:
        """Fail with a clear message before Orbax writes a part of a checkpoint and runs out of space."""
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
        """Move damaged checkpoints out of the way of the same steps, which are made and saved again."""
        if self._read_only:
            return
        aside = self._directory.with_name(DAMAGED)
        aside.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(aside / f"{step}", ignore_errors=True)
            (self._directory / f"{step}").rename(aside / f"{step}")
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        """Remove what interrupted saves have left."""
        for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _without_empty(state: Any) -> Any:
    """Replace arrays without values, which Orbax cannot save, by arrays of one value."""
    return jax.tree.map(lambda x: x if x.size else np.zeros(1, x.dtype), state)


def _random_numbers() -> dict[str, Any]:
    """Return the options of JAX on which random numbers depend, by name."""
    return {name: getattr(jax.config, name) for name in RANDOM_NUMBER_OPTIONS}


@contextlib.contextmanager
def _quiet_stragglers() -> Iterator[None]:
    """Drop what Orbax's other writes print when one of them has failed: a traceback each, after the error."""
    with ignored_unraisable("Event loop is closed"), quiet_logger("asyncio", logging.CRITICAL):
        try:
            yield
        except Exception:
            time.sleep(0.5)  # the other writes end within milliseconds if a core is free
            gc.collect()  # what they print is printed by their destructors
            raise


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    return text if len(text) < 200 else f"{text[:200]}..."
