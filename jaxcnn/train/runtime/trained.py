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
"""Images per call of the network in `Trained.predict`."""


class FrozenModel(nn.Module):
    """A frozen model as a Linen module without variables, which computes as in evaluation.

    Fields:
      function: the model with its variables.
    """

    function: Frozen

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        return self.function(x)


@dataclass(frozen=True)
class Trained:
    """A model with its variables, and everything needed to apply it to images.

    Attributes:
      config: configuration of the run.
      model: the network.
      variables: `{"params": ..., "batch_stats": ...}`; the moving averages if the run has them.
      step: training steps made.
      preprocessing: from pixels to the model's input.
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
        """Name of the architecture, or the description of a custom model, in at most 100 characters."""
        return short_name(self.config.model)

    @property
    def num_classes(self) -> int:
        """Return the number of class names."""
        return len(self.preprocessing.class_names)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "Trained":
        """Return the same network with other preprocessing.

        Raises:
          UsageError: if the model cannot take images of this shape, or has another number of classes.
        """
        changed = dataclasses.replace(self, preprocessing=preprocessing)
        changed.check()
        return changed

    @property
    def can_be_frozen(self) -> bool:
        """Return whether the task only applies the model to images: classification without methods of the user."""
        task = type(self.task)
        return issubclass(task, Classification) and all(
            getattr(task, name) is getattr(Classification, name) for name in ("evaluate", "scores")
        )

    def frozen(self, dtype: Any = None) -> "Trained":
        """Return the same network as a faster function of images, whose variables are constants of its programs.

        Args:
          dtype: as for `jaxcnn.export.freeze`.

        Raises:
          UsageError: if the task can use the model in another way than as a function of images.
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
        """Raise `UsageError` unless the model maps images of the preprocessing's shape to one logit per class."""
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
        """Return logits `[N, classes]` of uint8 images `[N, H, W, C]`.

        Pure: it can be compiled, differentiated and exported.

        Raises:
          UsageError: if the run's task has no class scores.
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

        Images are uint8. If the run was trained on float images, they are floats with values of the same range.

        Raises:
          UsageError: if the images have another shape or dtype.
        """
        size = min(len(images), BATCH)
        parts = [self.predict_batch(images[start : start + size], size) for start in range(0, len(images), size or 1)]
        return np.concatenate(parts) if parts else np.zeros((0, self.num_classes), np.float32)

    def predict_batch(self, images: Num[np.ndarray, "n h w c"], size: int) -> Float[np.ndarray, "n classes"]:
        """Return probabilities `[N, classes]` of at most `size` images `[N, H, W, C]`; see `predict`.

        The batch is padded to `size`, so that batches of different lengths use one compiled program.

        Raises:
          UsageError: if the images have another shape or dtype.
        """
        wanted, dtype = self.preprocessing.image_shape, self.preprocessing.dtype
        if dtype == np.float32 and images.dtype.kind == "f":
            images = images.astype(np.float32, copy=False)
        if images.shape[1:] != wanted or images.dtype != dtype:
            if dtype == np.float32 and images.dtype == np.uint8:
                raise UsageError(
                    f"{self.name} was trained on float images, whose scale is not known to image files. Pass float "
                    "arrays in Python: load_run(folder).predict(images)."
                )
            raise UsageError(
                f"images of {self.name} must be {dtype} of shape {('N', *wanted)}, got {images.dtype} of shape "
                f"{images.shape}. Resize them, and keep the number of channels."
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
    """Load the network of a checkpoint of a run. The dataset that it was trained on is not needed.

    Args:
      folder: the run directory.
      checkpoint: "latest", "best" (of the best evaluation), or a step of which the run has a checkpoint. Default: the
        one that `fit` has tested, and whose metrics `result.json` has: the best if the run holds out validation
        examples, else the latest. The latest if the run is not finished.
      model: the run's own model, if one was passed to `fit`.
      optimizer: the run's own optimizer, if one was passed to `fit`.
      task: the run's own task, if one was passed to `fit`.

    Raises:
      UsageError: if there is no run in the directory, no such checkpoint, or no intact one.
    """
    folder, parts = local_folder("workdir", folder), CustomParts(model=model, optimizer=optimizer, task=task)
    config = workdir.read_config(folder)
    around = preprocessing.read(folder) or Preprocessing.of(open_dataset(config.dataset, config.data_dir), config)
    learned = named_or_custom("task", config.task, task, Classification)
    built = build_model(config, parts, len(around.class_names))

    def init(rngs: Any) -> Any:
        return learned.bind(around).init(built, rngs, {"image": jnp.zeros((1, *around.image_shape))})

    # Numbers of a damaged configuration may be beyond float32. Those of the optimizer do not matter here.
    with np.errstate(over="ignore"):
        # The tree of the optimizer's state does not depend on the schedule.
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
    """Return the checkpoint that the test metrics in `result.json` belong to, or "latest".

    Args:
      folder: the run directory.
      steps: of the checkpoints in it, sorted.

    Raises:
      UsageError: if `result.json` is damaged.
    """
    if not (folder / workdir.RESULT).exists() or not steps:  # the run is not finished
        return "latest"
    values = workdir.read_result(folder)
    if values["steps"] > steps[-1]:
        last = folder / workdir.CHECKPOINTS / str(values["steps"])
        _log.warning("%s is missing, the checkpoint with which the run has ended", last)
    # A run that goes on after its result has later checkpoints. Results of version 0.1 have no "test_step".
    tested = values.get("test_step")
    if values["steps"] != steps[-1] or not isinstance(tested, int):
        return "latest"
    if tested not in steps:
        best = folder / workdir.CHECKPOINTS / str(tested)
        _log.warning("%s is missing, the checkpoint whose test metrics are in %s", best, workdir.RESULT)
    return tested if tested in steps[:-1] else "latest"


def _fitting(name: str, image_shape: tuple[int, ...], build: Callable[[], Any]) -> Any:
    """Return `build()`.

    Raises:
      UsageError: in place of any error, since a model that does not fit its images can raise anything.
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
            "Give the model and the image size of its training."
        ) from error
