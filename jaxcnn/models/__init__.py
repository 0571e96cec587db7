"""Classic architectures as pure Linen modules, one paper a file.

A model is called as `model.apply(variables, images, train=...)` with images `[N, H, W, C]` and returns logits
`[N, num_classes]` in float32. As for layers, `train` is accepted by position and by keyword, and a model is a value,
which can be a static argument of `jax.jit`.

Each file lists its models in a dict `MODELS`, which this package finds, in subpackages too: a new architecture is one
new file. Files with an underscore are shared by several families. `_classifier` also documents what a normalization
must accept.
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
"""Largest number of logits: the last layer of ResNet-50 then takes 80 GB."""


@functools.cache
def _registry() -> dict[str, tuple[Callable[..., nn.Module], str]]:
    """Return the constructor of each model and the name of the Python module that lists it."""
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
    """Return the names of all models, or of those that match a shell pattern such as "resnet*".

    >>> list_models("vgg1[36]")
    ['vgg13', 'vgg16']
    """
    return sorted(fnmatch.filter(_registry(), pattern))


def model_fields(name: str) -> list[str]:
    """Return the names of the fields that `create_model(name, ...)` takes.

    Raises:
      UsageError: an unknown name. The message suggests the closest valid one.

    >>> model_fields("lenet5_1998")
    ['num_classes', 'dtype', 'param_dtype', 'padding']
    """
    return [field for field in module_fields(_constructor(name)) or () if field not in ("parent", "name")]


def paper(name: str) -> str:
    """Return the architecture, authors, title and year of the paper: the first line of the docstring of its file.

    Raises:
      UsageError: an unknown name. The message suggests the closest valid one.

    >>> paper("vgg16")
    'VGG (Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014).'
    """
    _constructor(name)
    return (importlib.import_module(_registry()[name][1]).__doc__ or "").splitlines()[0]


def facts(name: str) -> Facts:
    """Return the paper, the size and the default images of the model `name`, without building its parameters.

    Raises:
      UsageError: an unknown name.

    >>> facts("resnet50").params
    25557032
    """
    model: Any = create_model(name)
    return facts_of(name, paper(name), model.image_shape)


def create_model(name: str, num_classes: int | None = None, **fields: Any) -> nn.Module:
    """Return the model `name`, one of `list_models()`, as a Linen module, which holds no parameters.

    Args:
      num_classes: number of logits. The default is the paper's, 1000 for ImageNet and 10 for small images.
      **fields: other values for fields in `model_fields(name)`, such as `dtype=jnp.bfloat16`.

    Raises:
      UsageError: an unknown name or field (the message suggests the closest valid one), or fewer than one class.

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
