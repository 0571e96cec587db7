"""Initial weights of a run, from a file, from another run, or from the whitening transform of the training images.

The run's configuration records the name of the file and a hash of its content, so that the run can be resumed only with
the same file.
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
from jaxcnn.data import Dataset
from jaxcnn.data.whitening import whitening_kernel
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.local_path import local_path
from jaxcnn.train.config import Config
from jaxcnn.train.optim.adapters import adapt
from jaxcnn.train.parts import PREFIX
from jaxcnn.train.runtime import integrity, workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.runtime.preprocessing import read as read_preprocessing
from jaxcnn.train.runtime.trained import load_run
from jaxcnn.train.state import TrainState

WHITENED_IMAGES = 5000
"""Largest number of training images that a whitening kernel is computed from."""

_RECORDED = re.compile(r" sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class InitialWeights:
    """Arrays that a run starts from.

    Attributes:
      record: name of the file or run, and a hash of its content. The configuration of the run stores this record.
      arrays: arrays by jaxcnn's names, such as "params/stem/conv/kernel". Parameters that are missing in `arrays` are
        initialized at random.
      note: one line for the user that names the source of the weights.
      normalization_note: one line for the user if the weights expect another normalization of images, else None.
    """

    record: str
    arrays: Mapping[str, np.ndarray]
    note: str
    normalization_note: str | None = None

    def put_into(self, state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
        """Return the training state before the first step, with `arrays` in place of the random initial arrays."""
        fresh = {"params": state.params, "batch_stats": state.batch_stats}
        flat: Any = flatten_dict(fresh, sep="/", keep_empty_nodes=True)
        learned: Any = unflatten_dict({**flat, **self.arrays}, sep="/")
        return dataclasses.replace(
            state,
            **learned,
            opt_state=jax.jit(adapt(optimizer).init)(learned["params"]),
            ema=learned if state.ema else {},
        )


@dataclass(frozen=True, eq=False)
class Whitening:
    """Initialization of a kernel with the whitening transform of patches of the training images.

    Attributes:
      path: path of the kernel in the parameters, such as "whiten/kernel".
      dataset: dataset with the training images. The images are read when `put_into` is called.
      preprocessing: normalization of the images.
    """

    path: str
    dataset: Dataset
    preprocessing: Preprocessing
    normalization_note = None

    @property
    def note(self) -> str:
        """One line for the user that names the kernel and the number of images."""
        return f"{self.path} whitens patches of {self._images:,} training images"

    @property
    def _images(self) -> int:
        return min(WHITENED_IMAGES, self.dataset.examples["train"])

    def put_into(self, state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
        """Return the training state before the first step, with the whitening kernel in place of the random kernel."""
        size, _, _, features = _kernel_shape(self.path, state.params)
        # The images are evenly spaced, since a folder of images is sorted by class.
        indices = np.linspace(0, self.dataset.examples["train"] - 1, self._images).astype(int).tolist()
        images = self.dataset.load("train", indices, self.preprocessing.geometry)["image"]
        kernel = whitening_kernel(np.asarray(jax.device_get(self.preprocessing.normalize(images))), size, features)
        arrays = {f"params/{self.path}": kernel}
        return InitialWeights("", arrays, self.note).put_into(state, optimizer)


def _kernel_shape(path: str, params: Any) -> tuple[int, ...]:
    """Return the shape of the square convolution kernel at a path in the parameters.

    Raises:
      UsageError: if the path has no kernel, or the kernel is not square. The error message suggests the closest valid
        path.
    """
    arrays: Any = flatten_dict(params, sep="/")
    kernels = {name: x.shape for name, x in arrays.items() if x.ndim == 4}
    if path not in kernels:
        raise unknown_name("kernel to whiten", path, kernels)
    shape = kernels[path]
    if shape[0] != shape[1]:
        raise UsageError(f"whiten needs a square kernel, but {path} has the shape {shape}. Choose another kernel.")
    return shape


def initial_weights(
    config: Config, model: nn.Module, dataset: Dataset, preprocessing: Preprocessing, params: Any
) -> "InitialWeights | Whitening | None":
    """Return the initial weights that the configuration names, or None for random initial weights.

    Raises:
      UsageError: if the initial weights cannot be used; see `read_initial_weights`.
    """
    if config.init_from is None and config.init_channels != "exact":
        raise UsageError(
            "init_channels applies only to initial weights. Give a file with init_from, or omit init_channels."
        )
    if config.whiten is None:
        if config.init_from is None:
            return None
        return read_initial_weights(
            config.init_from, config.model, model, dataset.num_classes, preprocessing, config.init_channels
        )
    if config.init_from is not None:
        raise UsageError(
            "whiten and init_from are mutually exclusive: the file of init_from contains the kernel. Omit whiten."
        )
    if not dataset.random_access:
        raise UsageError(f"whiten needs data with random access, but {dataset.name!r} is a stream. Omit whiten.")
    shape = _kernel_shape(config.whiten, params)
    if shape[2] != preprocessing.image_shape[2]:
        raise UsageError(
            f"whiten needs a kernel on images of {preprocessing.image_shape[2]} channels, but {config.whiten} has the "
            f"shape {shape}. Give the kernel of the first convolution."
        )
    return Whitening(config.whiten, dataset, preprocessing)


def read_initial_weights(
    source: str,
    model_name: str,
    model: nn.Module,
    num_classes: int,
    preprocessing: Preprocessing,
    channels: weights.Channels = "exact",
) -> InitialWeights | None:
    """Read the arrays of a file, or of a run's latest checkpoint, and convert them for this model.

    If the file has no classifier, or a classifier with another number of classes, the model's classifier is initialized
    at random. If `source` is a run directory, the network of that run may contain the model as a submodule. In this
    case, only the arrays of the submodule are used, and the classifier is initialized at random; see
    `jaxcnn.weights.without_prefix`.

    Args:
      source: a safetensors file or a `torch.save` file with jaxcnn's, torchvision's or timm's names; a folder in
        Hugging Face's format; `hf:OWNER/NAME`; an id of published weights; a run directory; or the `record` of an
        `InitialWeights`.
      model_name: registered name of the model, which selects the table of torchvision's and timm's names.
      model: the network to initialize.
      num_classes: number of logits of the model.
      preprocessing: shape and normalization of the model's input images.
      channels: how to load weights of a color model into a model for gray images: "exact" raises an error, "sum" sums
        the first kernel over its input channels.

    Returns:
      The arrays, or None if `source` is a `record`, which names a file without giving its path.

    Raises:
      UsageError: if the file cannot be read, or its arrays do not fit the model.
    """
    if _RECORDED.search(source):
        return None
    folder, prefix = local_path("init_from", source), None
    if folder.is_dir() and not weights.is_weight_folder(folder):
        variables, around = _of_run(folder)
        stored, prefix = weights.without_prefix(weights.as_stored(variables), model, preprocessing.image_shape)
        known = recordable(around)
        name, digest = folder.resolve().name, integrity.sha256(variables)
    else:
        path = weights.local_file(source)
        stored, known = weights.read_arrays(path), weights.known_preprocessing(source, path)
        name, digest = source.rpartition("/")[2], _sha256(path)
    try:
        conversion = weights.from_file(
            model_name,
            lambda _: model,
            stored,
            image_shape=preprocessing.image_shape,
            num_classes=num_classes,
            drop_head=None,
            channels=channels,
            preprocessing=known,
        )
    except UsageError as error:
        raise UsageError(f"init_from {source}: {error}") from None
    flat: Any = flatten_dict(conversion.variables, sep="/")
    arrays = {row.target: flat[row.target] for row in conversion.rows if row.source}
    note = f"starting from {source}" if prefix is None else f"starting from {prefix!r} in the network of {source}"
    if len(arrays) < len(conversion.rows):
        in_file = "no classifier" if conversion.classes_in_file is None else f"{conversion.classes_in_file} classes"
        note += f", which has {in_file}: the classifier for {num_classes} classes starts at random"
    if conversion.part:
        note += f"; the part {conversion.part!r} of the file was read"
        note += f", not {', '.join(map(repr, conversion.other_parts[:4]))}" if conversion.other_parts else ""
    if conversion.summed_channels is not None:
        note += (
            f"; its first kernel is summed over {conversion.summed_channels} input channels, which is exact only if "
            "all channels are normalized with the same mean and std"
        )
    return InitialWeights(
        f"{name} sha256:{digest}", arrays, note, _normalization_note(source, conversion.preprocessing, preprocessing)
    )


def _of_run(folder: Path) -> tuple[dict[str, Any], Preprocessing]:
    """Return the variables and the preprocessing of a run. The user need not pass a custom model or task again.

    Raises:
      UsageError: if `folder` is not a run directory, or has no intact checkpoint.
    """
    config = workdir.read_config(folder)
    around = read_preprocessing(folder)
    if around is None or not any(name.startswith(PREFIX) for name in (config.model, config.task)):
        run = load_run(folder, checkpoint="latest")
        return run.variables, run.preprocessing
    with Checkpoints(folder / workdir.CHECKPOINTS, read_only=True) as checkpoints:
        return checkpoints.learned(), around


def recordable(preprocessing: Preprocessing) -> weights.Preprocessing:
    """Convert the preprocessing of a run to `jaxcnn.weights.Preprocessing`, which a file of weights records."""
    return weights.Preprocessing(
        mean=preprocessing.mean,
        std=preprocessing.std,
        image_size=preprocessing.image_shape[:2],
        resize=preprocessing.resize,
        crop_fraction=preprocessing.crop_fraction,
        background=preprocessing.background,
    )


def _normalization_note(source: str, theirs: weights.Preprocessing | None, ours: Preprocessing) -> str | None:
    """Return a note with the flags that normalize images as the weights expect, or None if no flags are needed."""
    if theirs is None or theirs.normalizes_as(ours.mean, ours.std):
        return None
    return (
        f"the weights of {source} were trained on images with another normalization. "
        f"To use it, give {theirs.normalization_flags()}"
    )


def _sha256(path: Path) -> str:
    digests = []
    for part in weights.files_of(path):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
