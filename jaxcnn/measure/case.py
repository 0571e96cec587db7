"""What is measured in one row, and the command that measures it again."""

import itertools
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn import kernels, startup
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.models import create_model
from jaxcnn.train import make_parallel

MODES = ("train", "infer")
DTYPES = ("float32", "bfloat16", "float16")
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """One row to be: a compiled step of a model, and how it is timed.

    Attributes:
      model: a name of `jaxcnn.list_models()`, with its own number of classes.
      batch_size: images in a step, over all devices together.
      mode: "train", the step of `jaxcnn.train.make_train_step` with momentum; or "infer", the forward pass with the
        loss, as in a test.
      dtype: of the computation; parameters and logits are float32.
      parallel: how the step is spread, "pmap", "shard_map" or "jit".
      devices: how many share the batch; by default all. On a CPU that has fewer, fake ones are made.
      image_size: height and width; by default that of the model's data set.
      steps: steps to time at least.
      steps_per_dispatch: steps that one call of the compiled program makes, on as many batches.
      memory_limit: bytes on each device; a program predicted to need more is not run, and its row says so. By
        default what is free.
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        height, width, channels = natural_image_shape(self.model)
        return (height, width, channels) if self.image_size is None else (self.image_size, self.image_size, channels)

    @property
    def batch_values(self) -> int:
        """How many values the images of a batch have."""
        return self.batch_size * math.prod(self.image_shape)

    def validate(self) -> None:
        """Checks what can be checked without devices.

        Raises:
          UsageError: a value that cannot work, in one line.
        """
        create_model(self.model)
        for kind, value, known in (("mode", self.mode, MODES), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise unknown_name(kind, value, known)
        make_parallel(self.parallel, devices=())
        at_least_one = ("batch_size", "devices", "image_size", "steps", "steps_per_dispatch", "memory_limit")
        for name in at_least_one:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.steps_per_dispatch > 1 and self.mode != "train":
            raise UsageError("steps_per_dispatch above 1 is for training; give mode 'train'")

    def command(self) -> str:
        """The command that measures this case again, with the environment variables that matter."""
        parts = [f"{name}={shlex.quote(value)}" for name, value in environment().items()]
        parts += ["jaxcnn benchmark", f"--model {self.model}", f"--batch-sizes {self.batch_size}"]
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
    """The environment variables that change what a row measures and are set."""
    names = (
        *("XLA_FLAGS", "JAX_PLATFORMS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_OPTIMIZATION_LEVEL"),
        *(kernels.VARIABLE, startup.XLA_SWITCH, startup.MEMORY_SWITCH),
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def natural_image_shape(model: str) -> tuple[int, int, int]:
    """(H, W, C) of the images that a model was made for: ImageNet's, CIFAR's or MNIST's.

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
    """All combinations, each validated. A strategy of "auto" is "pmap", as in training.

    Raises:
      UsageError: a value that cannot work, in one line.

    >>> [case.batch_size for case in grid(["lenet5"], batch_sizes=(32, 64))]
    [32, 64]
    """
    every = itertools.product(models, modes, dtypes, parallel, devices, steps_per_dispatch, batch_sizes)
    cases = []
    for model, mode, dtype, way, count, dispatch, batch in every:
        way = "pmap" if way == "auto" else way
        cases.append(Case(model, batch, mode, dtype, way, count, steps_per_dispatch=dispatch, **others))
        cases[-1].validate()
    return cases
