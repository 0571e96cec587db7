"""Classic CNN architectures as Flax Linen modules; each file implements one paper.

A model is called as `model.apply(variables, images, train=...)` with images `[N, H, W, C]` and returns logits
`[N, num_classes]` in float32. `train` is accepted by position and by keyword. Models with equal fields are equal and
have equal hashes, so that a model can be a static argument of `jax.jit`.

Each file lists its models in a dict `MODELS`. `jaxcnn.models` finds the dicts `MODELS` of all files, also in
subpackages: to add an architecture, add one file. Files whose names start with an underscore contain code that several
model families share. `_classifier` documents the arguments that a normalization must accept.
"""

import fnmatch
import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.layers.partial import module_fields
from jaxcnn.models._facts import Facts, facts_of
from jaxcnn.models._intermediates import features

MAX_CLASSES = 10_000_000
"""Largest number of logits. With this number of logits, the last layer of ResNet-50 needs 80 GB of memory."""


@functools.cache
def _registry() -> dict[str, tuple[Callable[..., nn.Module], str]]:
    """Return a dict from the name of each model to its constructor and the name of its file's Python module."""
    models = {}
    for file in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
        module = importlib.import_module(file.name)
        for name, constructor in getattr(module, "MODELS", {}).items():
            if name in models:
                raise RuntimeError(f"two models are named {name!r}: in {models[name][1]} and in {file.name}")
            models[name] = (constructor, file.name)
    return models


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name not in _registry():
        raise unknown_name("model", name, _registry())
    return _registry()[name][0]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all models, or of the models that match a shell pattern such as "resnet*".

    >>> list_models("vgg1[36]")
    ['vgg13', 'vgg16']
    """
    return sorted(fnmatch.filter(_registry(), pattern))


def model_fields(name: str) -> list[str]:
    """Return the names of the fields that `create_model(name, ...)` accepts.

    Raises:
      UsageError: `name` is unknown. The message suggests the closest valid name.

    >>> model_fields("lenet5_1998")
    ['num_classes', 'dtype', 'param_dtype', 'padding']
    """
    return [field for field in module_fields(_constructor(name)) or () if field not in ("parent", "name")]


def paper(name: str) -> str:
    """Return the architecture of the model `name`, with the authors, title and year of its paper.

    The result is the first line of the docstring of the model's file.

    Raises:
      UsageError: `name` is unknown. The message suggests the closest valid name.

    >>> paper("vgg16")
    'VGG (Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014).'
    """
    _constructor(name)
    return (importlib.import_module(_registry()[name][1]).__doc__ or "").splitlines()[0]


def facts(name: str) -> Facts:
    """Return the `Facts` of the model `name`: its paper, its size and its image shape. No parameters are created.

    Raises:
      UsageError: `name` is unknown. The message suggests the closest valid name.

    >>> facts("resnet50").params
    25557032
    """
    model: Any = create_model(name)
    return facts_of(name, paper(name), model.image_shape)


def create_model(name: str, num_classes: int | None = None, **fields: Any) -> nn.Module:
    """Return the model `name`, one of `list_models()`, as a Linen module, which contains no parameters.

    Args:
      name: name of the model, such as "resnet50".
      num_classes: number of logits. None uses the paper's number, such as 1000 for ImageNet and 10 for CIFAR-10.
      **fields: values of fields of the model, such as `dtype=jnp.bfloat16`; `model_fields(name)` lists the fields.

    Raises:
      UsageError: `name` or a field is unknown (the message suggests the closest valid name), or `num_classes` is below
        1 or above `MAX_CLASSES`.

    >>> create_model("resnet50", num_classes=37).num_classes
    37
    """
    constructor = _constructor(name)
    if num_classes is not None:
        if num_classes < 1:
            raise UsageError(f"num_classes must be at least 1, got {num_classes}")
        if num_classes > MAX_CLASSES:
            raise UsageError(f"num_classes must be at most {MAX_CLASSES:,}, got {num_classes}")
        fields["num_classes"] = num_classes
    known = model_fields(name)
    for field in fields:
        if field not in known:
            raise unknown_name(f"field of {name}", field, known)
    return constructor(**fields)


__all__ = ["Facts", "create_model", "facts", "features", "list_models", "model_fields", "paper"]
