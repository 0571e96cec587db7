"""Checkpoints: the state of a run on disk, written by Orbax while training goes on."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.train.state import TrainState


class Checkpoints:
    """The checkpoints in a folder: the two latest and the one of the best test accuracy are kept.

    They hold host arrays, and thus know neither devices nor strategy. To be closed when done, which waits for
    what is still being written; a `with` block does so.
    """

    def __init__(self, directory: Path):
        # Orbax reports every save and every file at the level of a warning or below.
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._args = ocp.args
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(
                    [LatestN(2), BestN(get_metric_fn=lambda metrics: metrics["test_accuracy"], n=1)]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, meta: dict[str, Any], test_accuracy: float) -> None:
        """Starts to save the state and, beside it, `meta`, which is anything JSON can hold."""
        # Copies: the next training step reuses the memory of the state while the files are being written.
        host = jax.tree.map(lambda x: np.array(x, copy=True), state)
        self._manager.save(
            int(host.step),
            args=self._args.Composite(state=self._args.StandardSave(host), meta=self._args.JsonSave(meta)),
            metrics={"test_accuracy": test_accuracy},
        )

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def existing_step(self) -> int:
        """The step of the newest complete checkpoint.

        Raises:
          UsageError: if there is none.
        """
        step = self.latest_step()
        if step is None:
            raise UsageError(f"{self._manager.directory} holds no checkpoint yet; train first")
        return step

    def restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state (as host arrays) and `meta` of a step; `template` has the same tree, shapes and dtypes.

        Raises:
          UsageError: a checkpoint that cannot be read or does not fit the template.
        """
        try:
            restored = self._manager.restore(
                step,
                args=self._args.Composite(
                    state=self._args.StandardRestore(jax.tree.map(_host_array_like, template)),
                    meta=self._args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise a zoo of types for damaged files
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise UsageError(f"checkpoint {self._manager.directory}/{step} cannot be restored: {reason}") from error
        return restored["state"], restored["meta"]


def _host_array_like(x: Any) -> np.ndarray:
    return np.empty(x.shape, x.dtype)
