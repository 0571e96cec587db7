"""Describe one measurement: the model, the batch, the step, and the command that repeats the measurement."""

import itertools
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from jaxcnn import kernels, startup
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.models import create_model
from jaxcnn.train import make_parallel
from jaxcnn.train.config.checks import MAX_SIDE
from jaxcnn.train.parts import parse_option

MODES = ("train", "infer")
DTYPES = ("float32", "bfloat16", "float16")
IMAGENET_CLASSES = 1000
LARGEST = {
    "batch_size": 2**24,
    "devices": 2**16,
    "image_size": MAX_SIDE,
    "steps": 10**6,
    "steps_per_dispatch": 10**4,
    "memory_limit": 2**60,
}
"""Largest allowed value of each field of `Case`."""


@dataclass(frozen=True)
class Case:
    """One measurement: a step of a model, and the settings for timing the step.

    Attributes:
      model: a name from `jaxcnn.list_models()`. The model keeps its default number of classes.
      model_options: fields of the architecture to change: "NAME=VALUE", such as "remat=True".
      batch_size: number of images in a step, over all devices.
      mode: "train" times the step of `jaxcnn.train.make_train_step` with momentum. "infer" times the forward pass and
        the loss.
      dtype: compute dtype. Parameters and logits are float32.
      parallel: how the step is distributed: "pmap", "shard_map" or "jit".
      devices: number of devices that share the batch (default: all). On a CPU, JAX simulates this number of devices.
      image_size: image height and width in pixels (default: the image size of the model's dataset).
      steps: minimum number of steps to time.
      steps_per_dispatch: number of training steps in each call of the compiled program. Each step has its own batch.
      memory_limit: limit in bytes per device. If XLA predicts that the program needs more memory, the program does not
        run, and its row has an `error`. Default: the free memory on a CPU, no limit on GPUs and TPUs.

    >>> case = Case("resnet50", batch_size=256, dtype="bfloat16")
    >>> case.image_shape, case.batch_values
    ((224, 224, 3), 38535168)
    """

    model: str
    batch_size: int = 32
    mode: str = "train"
    dtype: str = "float32"
    parallel: str = "pmap"
    devices: int | None = None
    image_size: int | None = None
    steps: int = 20
    steps_per_dispatch: int = 1
    memory_limit: int | None = None
    model_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_options", tuple(self.model_options))  # JSON gives a list

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Image shape `(H, W, C)`."""
        height, width, channels = natural_image_shape(self.model)
        return (height, width, channels) if self.image_size is None else (self.image_size, self.image_size, channels)

    @property
    def batch_values(self) -> int:
        """Number of values in the images of a batch."""
        return self.batch_size * math.prod(self.image_shape)

    def create_model(self, **fields: Any) -> nn.Module:
        """Return the model of the case, with the fields in `model_options` and the keyword arguments `fields`.

        Raises:
          UsageError: if the model or a field is unknown.
        """
        return create_model(self.model, **dict(map(parse_option, self.model_options)), **fields)

    def validate(self) -> None:
        """Check the values that do not depend on the available devices.

        Raises:
          UsageError: if a value is invalid.
        """
        self.create_model()
        for kind, value, known in (("mode", self.mode, MODES), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise unknown_name(kind, value, known)
        make_parallel(self.parallel, devices=())
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1: {value}. Give a positive number.")
            if value is not None and value > most:
                raise UsageError(f"{name} is too large: {value}. Give at most {most}.")
        if self.steps_per_dispatch > 1 and self.mode != "train":
            raise UsageError(
                f"steps_per_dispatch must be 1 in mode {self.mode!r}: {self.steps_per_dispatch}. "
                "Use mode 'train' for more steps per dispatch."
            )

    def command(self) -> str:
        """Return the command that repeats this measurement, with the environment variables that affect it."""
        parts = [f"{name}={shlex.quote(value)}" for name, value in environment().items()]
        parts += ["jaxcnn benchmark", f"--model {self.model}", f"--batch-sizes {self.batch_size}"]
        if self.model_options:
            parts.append(f"--model-options {shlex.join(self.model_options)}")
        parts += [f"--mode {self.mode}", f"--dtype {self.dtype}", f"--parallel {self.parallel}"]
        parts += [f"--steps {self.steps}", f"--image-size {self.image_shape[0]}"]
        if self.devices is not None:
            parts.append(f"--devices {self.devices}")
        if self.steps_per_dispatch > 1:
            parts.append(f"--steps-per-dispatch {self.steps_per_dispatch}")
        if self.memory_limit is not None:
            parts.append(f"--memory-limit {self.memory_limit / 2**30:g}")
        return " ".join(parts)


def environment() -> dict[str, str]:
    """Return the environment variables that are set and affect a measurement."""
    names = (
        *("XLA_FLAGS", "JAX_PLATFORMS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_OPTIMIZATION_LEVEL"),
        *(kernels.VARIABLE, startup.XLA_SWITCH, startup.MEMORY_SWITCH, startup.presets.VARIABLE),
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def natural_image_shape(model: str) -> tuple[int, int, int]:
    """Return the image shape `(H, W, C)` of a model's dataset: ImageNet, CIFAR or MNIST.

    >>> natural_image_shape("resnet50"), natural_image_shape("resnet20_cifar"), natural_image_shape("lenet5")
    ((224, 224, 3), (32, 32, 3), (28, 28, 1))
    """
    if model.startswith("lenet"):
        return (28, 28, 1)
    classes = getattr(create_model(model), "num_classes", IMAGENET_CLASSES)
    return (224, 224, 3) if classes == IMAGENET_CLASSES else (32, 32, 3)


def grid(
    models: Sequence[str],
    batch_sizes: Sequence[int] = (32,),
    modes: Sequence[str] = ("train",),
    dtypes: Sequence[str] = ("float32",),
    parallel: Sequence[str] = ("pmap",),
    devices: Sequence[int | None] = (None,),
    steps_per_dispatch: Sequence[int] = (1,),
    **others: Any,
) -> list[Case]:
    """Return a validated case for every combination of the values.

    Args:
      models, batch_sizes, modes, dtypes, parallel, devices, steps_per_dispatch: values of the fields of `Case`.
        `parallel` "auto" means "pmap", as in training on one process.
      **others: values of further fields of `Case`, which are the same in all cases.

    Raises:
      UsageError: if a value is invalid.

    >>> [case.batch_size for case in grid(["lenet5"], batch_sizes=(32, 64))]
    [32, 64]
    """
    combinations = itertools.product(models, modes, dtypes, parallel, devices, steps_per_dispatch, batch_sizes)
    cases = []
    for model, mode, dtype, strategy, count, dispatch, batch in combinations:
        strategy = "pmap" if strategy == "auto" else strategy
        cases.append(Case(model, batch, mode, dtype, strategy, count, steps_per_dispatch=dispatch, **others))
        cases[-1].validate()
    return cases
