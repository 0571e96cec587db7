"""Every classic architecture as a pure Linen module, one paper a file.

A file names its models in a dict `MODELS`; this package finds the files and joins the dicts, so a new architecture
is one new file; `stem` holds what several families share, `taps` how to look inside. A model is called as
`model.apply(variables, images, train=...)` with images `[N, H, W, C]` and returns logits `[N, num_classes]` in float32.
"""

import dataclasses
import fnmatch
import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.models._intermediates import features


@functools.cache
def _registry() -> dict[str, tuple[Callable[..., nn.Module], str]]:
    """Every model's constructor and the file (module) that it stands in, by the model's name."""
    models = {}
    for file in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
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


def _module_class(constructor: Callable[..., nn.Module]) -> type[nn.Module]:
    """The Linen class behind a constructor: the class itself, or a `partial` of it."""
    return _module_class(constructor.func) if isinstance(constructor, functools.partial) else constructor  # type: ignore[return-value]


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, or of those that match a shell pattern.

    >>> list_models("lenet5")
    ['lenet5']
    """
    return sorted(fnmatch.filter(_registry(), pattern))


def model_fields(name: str) -> list[str]:
    """Names of the fields that `create_model(name, ...)` takes."""
    fields = dataclasses.fields(_module_class(_constructor(name)))  # type: ignore[arg-type]
    return [field.name for field in fields if field.name not in ("parent", "name")]


def paper(name: str) -> str:
    """The first line of the docstring of the model's file: architecture, authors, title and year."""
    _constructor(name)
    return (importlib.import_module(_registry()[name][1]).__doc__ or "").splitlines()[0]


def create_model(name: str, num_classes: int | None = None, **fields: Any) -> nn.Module:
    """The model of this name, as a Linen module that holds no parameters yet.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits; by default the paper's, 1000 for ImageNet's and 10 for small images.
      **fields: fields of the module that differ from the named variant's, such as `dtype=jnp.bfloat16`.

    Raises:
      UsageError: an unknown name or field (the nearest one is named), or fewer than one class.

    >>> create_model("resnet50", num_classes=37).num_classes
    37
    """
    constructor = _constructor(name)
    if num_classes is not None:
        if num_classes < 1:
            raise UsageError(f"num_classes must be at least 1, got {num_classes}")
        fields["num_classes"] = num_classes
    known = model_fields(name)
    for field in fields:
        if field not in known:
            raise unknown_name(f"field of {name}", field, known)
    return constructor(**fields)


__all__ = ["create_model", "features", "list_models", "model_fields", "paper"]
