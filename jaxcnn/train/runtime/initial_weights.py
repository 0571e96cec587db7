"""Where parameters come from that are not random: a file of weights, or another run.

The run's configuration records the file's name and a hash of its content, so that the run is continued only from the
same one.
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
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime.trained import load_run
from jaxcnn.train.state import TrainState

_RECORDED = re.compile(r" sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class InitialWeights:
    """What a run starts from.

    Attributes:
      record: the name of the file or run, and the hash of what is in it.
      arrays: by our names ("params/stem/conv/kernel"); what is not there starts at random.
      note: what a person should know about them, in one line.
    """

    record: str
    arrays: Mapping[str, np.ndarray]
    note: str

    def put_into(self, state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step, with these arrays in place of random ones."""
        fresh = {"params": state.params, "batch_stats": state.batch_stats}
        flat: Any = flatten_dict(fresh, sep="/", keep_empty_nodes=True)
        learned: Any = unflatten_dict({**flat, **self.arrays}, sep="/")
        return dataclasses.replace(
            state,
            **learned,
            opt_state=jax.jit(optimizer.init)(learned["params"]),
            ema=learned if state.ema else {},
        )


def read_initial_weights(
    source: str, model_name: str, model: nn.Module, num_classes: int, image_shape: tuple[int, ...]
) -> InitialWeights | None:
    """The arrays of a file, or of a run's latest checkpoint, as this model has them.

    A classifier for another number of classes, or none, is replaced by the run's own random one.

    Args:
      source: a `.safetensors` or `.pth` file with our names, torchvision's or timm's; `hf:OWNER/NAME`; a run's folder;
        or what a run has recorded of one, for which there is nothing to read.
      model_name, model: that they are for; the name tells what torchvision and timm call its parts.
      num_classes: logits of the model.
      image_shape: `(H, W, C)` of its images.

    Raises:
      UsageError: a file that cannot be read, or arrays that do not fit.
    """
    if _RECORDED.search(source):
        return None
    path = Path(source).expanduser()
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
        theirs = "no classifier" if conversion.classes_in_file is None else f"{conversion.classes_in_file} classes"
        note += f", which has {theirs}: a fresh classifier for {num_classes}"
    return InitialWeights(f"{name} sha256:{digest}", arrays, note)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
