"""Load a trained network from the directory of its run."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.array_types import AnyArray, Array, Float, Num
from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.freezing import Frozen, freeze
from jaxcnn.local_path import local_folder
from jaxcnn.train.config import Config
from jaxcnn.train.parts import CustomParts, build_model, build_optimizer, named_or_custom, short_name
from jaxcnn.train.runtime import preprocessing, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import create_state, evaluation_variables
from jaxcnn.train.task import Classification, Task

_log = logging.getLogger(__name__)

BATCH = 64
"""Largest batch size in `Trained.predict`."""


class FrozenModel(nn.Module):
    """A frozen model, wrapped as a Linen module without variables. The module always computes as in evaluation.

    Fields:
      function: the frozen model, which contains the variables.
    """

    function: Frozen

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        return self.function(x)


@dataclass(frozen=True)
class Trained:
    """A trained model with its variables and its preprocessing.

    Attributes:
      config: configuration of the run.
      model: the network.
      variables: `{"params": ..., "batch_stats": ...}`. If the run has moving averages, the arrays are the moving
        averages.
      step: number of training steps that the run had made.
      preprocessing: object that converts pixels to the model's input, and the model's logits to probabilities.
      folder: the run directory; None for published weights.
      task: the task of the run, not bound to the preprocessing.

    >>> class Brightness(nn.Module):
    ...     def __call__(self, x, train):
    ...         mean = x.mean((1, 2, 3))
    ...         return jnp.stack([-mean, mean], axis=-1)
    >>> preprocessing = Preprocessing((4, 4, 1), (0.5,), (0.25,), class_names=("dark", "bright"))
    >>> trained = Trained(Config(), Brightness(), {}, 0, preprocessing)
    >>> images = np.repeat(np.uint8([10, 250]), 16).reshape(2, 4, 4, 1)
    >>> [preprocessing.class_names[i] for i in trained.predict(images).argmax(-1)]
    ['dark', 'bright']
    """

    config: Config
    model: nn.Module
    variables: dict[str, Any]
    step: int
    preprocessing: Preprocessing
    folder: Path | None = None
    task: Task = field(default_factory=Classification)

    @property
    def name(self) -> str:
        """Name of the architecture, or the description of a custom model. At most 100 characters."""
        return short_name(self.config.model)

    @property
    def num_classes(self) -> int:
        """Number of class names."""
        return len(self.preprocessing.class_names)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "Trained":
        """Return a copy of this network with the preprocessing `preprocessing`.

        Raises:
          UsageError: if the model cannot process images of `preprocessing.image_shape`, or if the number of its logits
            differs from the number of class names.
        """
        changed = dataclasses.replace(self, preprocessing=preprocessing)
        changed.check()
        return changed

    @property
    def can_be_frozen(self) -> bool:
        """Return whether the network can be frozen: its task is classification with the default evaluation."""
        task = type(self.task)
        return issubclass(task, Classification) and all(
            getattr(task, name) is getattr(Classification, name) for name in ("evaluate", "scores")
        )

    def frozen(self, dtype: Any = None) -> "Trained":
        """Return a faster copy of this network for inference, with the variables as constants of the compiled program.

        Args:
          dtype: dtype of the computation; see `jaxcnn.export.freeze`.

        Raises:
          UsageError: if the network cannot be frozen; see `can_be_frozen`.
        """
        if not self.can_be_frozen:
            raise UsageError(
                f"cannot freeze a network of the task {type(self.task).__name__}, which may use more of the model than "
                "its output. Use the network as it is, or freeze the model with jaxcnn.export.freeze."
            )
        if isinstance(self.model, FrozenModel):
            return self
        function = freeze(self.model, self.variables, dtype=dtype)
        return dataclasses.replace(self, model=FrozenModel(function), variables={})

    def check(self) -> None:
        """Raise `UsageError` if the model does not map images of the preprocessing's shape to one logit per class."""
        height, width, channels = self.preprocessing.image_shape
        images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        apply = partial(self.model.apply, train=False)
        logits: Any = self._fitting(lambda: jax.eval_shape(apply, self.variables, images))
        if getattr(logits, "shape", None) != (1, self.num_classes):
            found = getattr(logits, "shape", type(logits).__name__)
            raise UsageError(
                f"{self.name} returns logits of shape {found} for one image, not (1, {self.num_classes}). "
                "Give as many class names as the model has logits."
            )

    def _fitting(self, build: Callable[[], Any]) -> Any:
        return _fitting(self.name, self.preprocessing.image_shape, build)

    def logits(self, images: Num[AnyArray, "n h w c"]) -> Float[Array, "n classes"]:
        """Return the logits `[N, classes]` of uint8 images `[N, H, W, C]`.

        This method is pure: JAX can compile, differentiate and export it.

        Raises:
          UsageError: if the run's task does not define class scores.
        """
        return self.bound_task.scores(self.model, self.variables, {"image": images})

    @property
    def bound_task(self) -> Task:
        """The task of the run, bound to the preprocessing, with the run's test-time augmentation."""
        task = self.task
        if isinstance(task, Classification):
            task = dataclasses.replace(task, tta=self.config.tta)
        return task.bind(self.preprocessing)

    def predict(self, images: Num[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n classes"]:
        """Return probabilities `[N, classes]` of any number of images `[N, H, W, C]`.

        Images are uint8. If the run was trained on float images, images are floats with the range of values of the
        training images.

        Raises:
          UsageError: if the images do not have the shape and dtype of the preprocessing.
        """
        size = min(len(images), BATCH)
        parts = [self.predict_batch(images[start : start + size], size) for start in range(0, len(images), size or 1)]
        return np.concatenate(parts) if parts else np.zeros((0, self.num_classes), np.float32)

    def predict_batch(self, images: Num[np.ndarray, "n h w c"], size: int) -> Float[np.ndarray, "n classes"]:
        """Return probabilities `[N, classes]` of at most `size` images `[N, H, W, C]`; see `predict`.

        The batch is padded to `size` images, so that batches of different lengths share one compiled program.

        Raises:
          UsageError: if the images do not have the shape and dtype of the preprocessing.
        """
        wanted, dtype = self.preprocessing.image_shape, self.preprocessing.dtype
        if dtype == np.float32 and images.dtype.kind == "f":
            images = images.astype(np.float32, copy=False)
        if images.shape[1:] != wanted or images.dtype != dtype:
            if dtype == np.float32 and images.dtype == np.uint8:
                raise UsageError(
                    f"{self.name} was trained on float images, got uint8 images, as image files contain. Pass float "
                    "arrays in Python: load_run(folder).predict(images)."
                )
            raise UsageError(
                f"images of {self.name} must be {dtype} of shape {('N', *wanted)}, got {images.dtype} of shape "
                f"{images.shape}. Resize the images, and keep the number of channels."
            )
        padding = [(0, size - len(images)), (0, 0), (0, 0), (0, 0)]
        probabilities = self._probabilities(jax.device_put(np.pad(images, padding)))
        return jax.device_get(probabilities)[: len(images)]

    @cached_property
    def _probabilities(self) -> Any:
        return jax.jit(lambda images: self.preprocessing.probabilities(self.logits(images)))


def load_run(
    folder: str | Path,
    *,
    checkpoint: str | int | None = None,
    model: nn.Module | None = None,
    optimizer: Any = None,
    task: Task | None = None,
) -> Trained:
    """Load the network from a checkpoint of a run. The training data is not needed.

    Args:
      folder: the run directory.
      checkpoint: "latest", "best" (the checkpoint of the best evaluation), or the step of a checkpoint. Default: the
        checkpoint whose test metrics are in `result.json`: the best checkpoint if the run has a validation set, else
        the latest checkpoint. If the run is not finished, the default is the latest checkpoint.
      model: the model that was passed to `fit`, if the run used a custom model.
      optimizer: the optimizer that was passed to `fit`, if the run used a custom optimizer.
      task: the task that was passed to `fit`, if the run used a custom task.

    Raises:
      UsageError: if `folder` is not a run directory, or if the checkpoint does not exist or is damaged.
    """
    folder, parts = local_folder("workdir", folder), CustomParts(model=model, optimizer=optimizer, task=task)
    config = workdir.read_config(folder)
    around = preprocessing.read(folder) or Preprocessing.of(open_dataset(config.dataset, config.data_dir), config)
    learned = named_or_custom("task", config.task, task, Classification)
    built = build_model(config, parts, len(around.class_names))

    def init(rngs: Any) -> Any:
        return learned.bind(around).init(built, rngs, {"image": jnp.zeros((1, *around.image_shape))})

    # A damaged configuration may contain numbers beyond float32. The optimizer's numbers are not used here.
    with np.errstate(over="ignore"):
        # The tree structure of the optimizer's state does not depend on the learning rate schedule.
        transformation = build_optimizer(config, parts, optax.constant_schedule(0.0))
        template: Any = _fitting(
            short_name(config.model),
            around.image_shape,
            lambda: jax.eval_shape(
                lambda: create_state(built, transformation, (), config.seed, averaged=config.averages, init=init)
            ),
        )
    with Checkpoints(folder / workdir.CHECKPOINTS, read_only=True) as checkpoints:
        chosen = _tested(folder, checkpoints.steps()) if checkpoint is None else checkpoint
        state, _ = checkpoints.chosen(chosen, template)
    trained = Trained(config, built, evaluation_variables(state), int(state.step), around, folder, learned)
    if model is not None and task is None:
        trained.check()
    return trained


def _tested(folder: Path, steps: Sequence[int]) -> str | int:
    """Return the step of the checkpoint whose test metrics are in `result.json`, or "latest" if there are none.

    Args:
      folder: the run directory.
      steps: steps of the checkpoints in the run directory, in ascending order.

    Raises:
      UsageError: if `result.json` is damaged.
    """
    if not (folder / workdir.RESULT).exists() or not steps:  # the run is not finished
        return "latest"
    values = workdir.read_result(folder)
    if values["steps"] > steps[-1]:
        last = folder / workdir.CHECKPOINTS / str(values["steps"])
        _log.warning("the last checkpoint of the run is missing: %s", last)
    # A finished run that is continued has later checkpoints. A result.json of version 0.1 has no "test_step".
    tested = values.get("test_step")
    if values["steps"] != steps[-1] or not isinstance(tested, int):
        return "latest"
    if tested not in steps:
        best = folder / workdir.CHECKPOINTS / str(tested)
        _log.warning("the checkpoint whose test metrics are in %s is missing: %s", workdir.RESULT, best)
    return tested if tested in steps[:-1] else "latest"


def _fitting(name: str, image_shape: tuple[int, ...], build: Callable[[], Any]) -> Any:
    """Return `build()`, and convert every error to a `UsageError` that names the model and the image shape.

    Raises:
      UsageError: if `build` raises an error. A model that does not fit its images can raise errors of any type.
    """
    try:
        return build()
    except UsageError:
        raise
    except Exception as error:
        height, width, channels = image_shape
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].partition(" (http")[0].rstrip(".")  # Flax adds a link
        raise UsageError(
            f"{name} cannot take images of {height}x{width} pixels with {channels} channels: {reason[:200]}. "
            "Give the model and the image size that the network was trained with."
        ) from error
