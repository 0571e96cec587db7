"""Load a trained network from the directory of its run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxcnn.data import open_dataset
from jaxcnn.train.config import Config
from jaxcnn.train.parts import CustomParts, build_model, build_optimizer
from jaxcnn.train.runtime import preprocessing, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import create_state, evaluation_variables
from jaxcnn.train.step import evaluation_logits

# Images per call of the network in `Trained.predict`.
BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A model with its variables, and everything needed to apply it to images.

    Attributes:
      config: configuration of the run.
      model: the network.
      variables: `{"params": ..., "batch_stats": ...}`; the moving averages if the run has them.
      step: training steps made.
      preprocessing: from pixels to the model's input.
    """

    config: Config
    model: nn.Module
    variables: dict[str, Any]
    step: int
    preprocessing: Preprocessing

    def logits(self, images: jax.Array) -> jax.Array:
        """Return logits `[N, classes]` of uint8 images `[N, H, W, C]`.

        Pure: it can be compiled, differentiated and exported.
        """
        inputs = self.preprocessing.normalize(images)
        return evaluation_logits(self.model, self.variables, inputs, flip=self.config.tta == "flip")

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities `[N, classes]` of any number of uint8 images `[N, H, W, C]`."""
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
    """Load the network of the latest checkpoint of a run. The dataset that it was trained on is not needed.

    Args:
      folder: the run directory.
      custom: the custom parts of the run (`model`, `optimizer`), as passed to `fit`.

    Raises:
      UsageError: If there is no run in the directory, no checkpoint yet, or no intact one.
    """
    folder, parts = Path(folder).expanduser(), CustomParts(**custom)
    config = workdir.read_config(folder)
    around = preprocessing.read(folder) or Preprocessing.of(open_dataset(config.dataset, config.data_dir), config)
    model = build_model(config, parts, len(around.class_names))
    # The tree of the optimizer's state does not depend on the schedule.
    optimizer = build_optimizer(config, parts, optax.constant_schedule(0.0))
    averaged = config.ema_decay > 0
    template: Any = jax.eval_shape(
        lambda: create_state(model, optimizer, around.image_shape, config.seed, averaged=averaged)
    )
    with Checkpoints(folder / workdir.CHECKPOINTS, read_only=True) as checkpoints:
        state, _ = checkpoints.existing(template)
    return Trained(config, model, evaluation_variables(state), int(state.step), around)
