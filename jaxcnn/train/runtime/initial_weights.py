"""Initial weights of a run: a file of weights, or another run.

The run's configuration records the file's name and a hash of its content, so that the run is resumed only with the
same file.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn import weights
from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path
from jaxcnn.train.optim.adapters import adapt
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime.trained import load_run
from jaxcnn.train.state import TrainState

_RECORDED = re.compile(r" sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class InitialWeights:
    """Arrays that a run starts from.

    Attributes:
      record: the name of the file or run, and the hash of its content.
      arrays: by jaxcnn's names ("params/stem/conv/kernel"). Arrays that are missing start at random.
      note: one line for the user.
    """

    record: str
    arrays: Mapping[str, np.ndarray]
    note: str

    def put_into(self, state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
        """Return the state before the first step, with these arrays instead of random ones."""
        fresh = {"params": state.params, "batch_stats": state.batch_stats}
        flat: Any = flatten_dict(fresh, sep="/", keep_empty_nodes=True)
        learned: Any = unflatten_dict({**flat, **self.arrays}, sep="/")
        return dataclasses.replace(
            state,
            **learned,
            opt_state=jax.jit(adapt(optimizer).init)(learned["params"]),
            ema=learned if state.ema else {},
        )


def read_initial_weights(
    source: str, model_name: str, model: nn.Module, num_classes: int, image_shape: tuple[int, ...]
) -> InitialWeights | None:
    """Read the arrays of a file, or of a run's latest checkpoint, and convert them for this model.

    A classifier that is missing, or has another number of classes, is left out, so that it starts at random.

    Args:
      source: a `.safetensors` or `.pth` file with jaxcnn's, torchvision's or timm's names; `hf:OWNER/NAME`; a run
        directory; or the record of one of these.
      model_name: selects the names of torchvision and timm for the model's parts.
      model: the network to initialize.
      num_classes: number of logits of the model.
      image_shape: `(H, W, C)` of its images.

    Returns:
      None if `source` is a record, from which nothing can be read.

    Raises:
      UsageError: If the file cannot be read, or its arrays do not fit the model.
    """
    if _RECORDED.search(source):
        return None
    path = local_path("init_from", source)
    if path.is_dir():
        variables = load_run(path).variables
        stored = weights.as_stored(variables)
        name, digest = path.resolve().name, integrity.sha256(variables)
    else:
        path = weights.local_file(source)
        stored = weights.read_arrays(path)
        name, digest = source.rpartition("/")[2], _sha256(path)
    try:
        conversion = weights.from_file(
            model_name,
            lambda _: model,
            stored,
            image_shape=image_shape,
            num_classes=num_classes,
            drop_head=None,
        )
    except UsageError as error:
        raise UsageError(f"init_from {source}: {error}") from None
    flat: Any = flatten_dict(conversion.variables, sep="/")
    arrays = {row.target: flat[row.target] for row in conversion.rows if row.source}
    note = f"starting from {source}"
    if len(arrays) < len(conversion.rows):
        in_file = "no classifier" if conversion.classes_in_file is None else f"{conversion.classes_in_file} classes"
        note += f", which has {in_file}: a fresh classifier for {num_classes}"
    return InitialWeights(f"{name} sha256:{digest}", arrays, note)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
