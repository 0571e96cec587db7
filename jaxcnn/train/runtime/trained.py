"""A trained network, as a run has left it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcnn.data import open_dataset
from jaxcnn.train.build import build_model, build_optimizer
from jaxcnn.train.config import Config
from jaxcnn.train.custom import CustomParts
from jaxcnn.train.runtime import preprocessing, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import create_state, evaluation_variables
from jaxcnn.train.step import evaluation_logits

# Images that go through the network at once.
BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A model with its variables, and all that is needed to ask it about images.

    Attributes:
      config: of the run.
      step: updates that were made.
      variables: `{"params": ..., "batch_stats": ...}`.
    """

    config: Config
    model: nn.Module
    variables: dict[str, Any]
    step: int
    preprocessing: Preprocessing

    def logits(self, images: jax.Array) -> jax.Array:
        """Logits `[N, classes]` of uint8 images `[N, H, W, C]`; pure, to be compiled, differentiated or exported."""
        inputs = self.preprocessing.normalize(images)
        return evaluation_logits(self.model, self.variables, inputs, flip=self.config.tta == "flip")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities `[N, classes]` of uint8 images `[N, H, W, C]`, however many they are."""
        batches = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            padding = [(0, min(len(images), BATCH) - len(batch)), (0, 0), (0, 0), (0, 0)]  # one shape, one program
            batches.append(np.asarray(self._probabilities(np.pad(batch, padding)))[: len(batch)])
        return np.concatenate(batches)

    @cached_property
    def _probabilities(self) -> Any:
        return jax.jit(lambda images: jax.nn.softmax(self.logits(images), axis=-1))


def load_run(folder: str | Path, **custom: Any) -> Trained:
    """The network of the latest checkpoint of a run. The data set that it was trained on is not needed.

    Parts of the run that are no names (`model`, `optimizer`) are given as to `fit`.

    Raises:
      UsageError: no run there, no checkpoint yet, or none that is sound.
    """
    folder, parts = Path(folder).expanduser(), CustomParts(**custom)
    config = workdir.read_config(folder)
    around = preprocessing.read(folder) or Preprocessing.of(
        open_dataset(config.dataset, config.data_dir), config.image_size
    )
    model = build_model(config, parts, len(around.class_names))
    # What a checkpoint holds of the optimizer does not depend on the schedule.
    optimizer = build_optimizer(config, parts, optax.constant_schedule(0.0))
    averaged = config.ema_decay > 0
    template: Any = jax.eval_shape(
        lambda: create_state(model, optimizer, around.image_shape, config.seed, averaged=averaged)
    )
    with Checkpoints(folder / workdir.CHECKPOINTS, read_only=True) as checkpoints:
        state, _ = checkpoints.existing(template)
    return Trained(config, model, evaluation_variables(state), int(state.step), around)
