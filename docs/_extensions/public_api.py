"""The public names of jaxcnn: what its packages list in `__all__`."""

import importlib
import inspect
import types
from functools import cache
from typing import Any

PACKAGES = (
    "jaxcnn",
    "jaxcnn.layers",
    "jaxcnn.layers.initializers",
    "jaxcnn.models",
    "jaxcnn.data",
    "jaxcnn.train",
    "jaxcnn.analysis",
    "jaxcnn.predict",
    "jaxcnn.visualize",
    "jaxcnn.weights",
    "jaxcnn.freezing",
    "jaxcnn.export",
    "jaxcnn.measure",
    "jaxcnn.aot",
    "jaxcnn.kernels",
    "jaxcnn.startup",
    "jaxcnn.nnx",
    "jaxcnn.errors",
)


@cache
def names(package: str) -> dict[str, Any]:
    """Return the public objects of a package by name: those of `__all__`, without modules."""
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in values.items() if not isinstance(value, types.ModuleType)}


def kind(value: Any) -> str:
    """Return the directive of autodoc for an object, without "auto"."""
    if isinstance(value, type):
        return "exception" if issubclass(value, BaseException) else "class"
    # A value that is called, such as an initializer or a function with a custom derivative, is a function too.
    return "function" if callable(value) and not isinstance(value, types.GenericAlias | types.UnionType) else "data"


@cache
def places() -> dict[int, str]:
    """Return where each object is documented: the first name of those that it has."""
    made: dict[int, str] = {}
    for package in PACKAGES:
        for name, value in names(package).items():
            if kind(value) != "data":
                made.setdefault(id(value), f"{package}.{name}")
    return made


@cache
def table() -> dict[str, list[str]]:
    """Return the full names that a short name may stand for."""
    made: dict[str, list[str]] = {}
    for package in PACKAGES:
        for name in names(package):
            made.setdefault(name, []).append(f"{package}.{name}")
    return made


def find(code: str, modules: list[str]) -> str | None:
    """Return the full name of the public object that is meant by `code`, or None.

    Args:
      code: `fit`, `train.fit`, `jaxcnn.train.fit` or `Task.scores`.
      modules: the object in whose docstring it is written, and packages; the nearest first.
    """
    head, _, rest = code.removeprefix("jaxcnn.").rpartition(".")
    candidates = table().get(rest if head else code, [])
    if head:
        candidates = [full for full in candidates if full.endswith(f".{head}.{rest}")]
        candidates = candidates or [f"{full}.{rest}" for full in table().get(head, []) if _has_method(full, rest)]
    candidates = [full for full in candidates if full != modules[0]]
    for module in modules[1:]:
        for full in candidates:
            if full.startswith(f"{module}.") and (module != "jaxcnn" or len(candidates) == 1 or full.count(".") == 1):
                return full
    return None


def _has_method(full: str, name: str) -> bool:
    package, _, owner = full.rpartition(".")
    method = vars(names(package)[owner]).get(name) if isinstance(names(package)[owner], type) else None
    return inspect.isfunction(method) and bool(method.__doc__) and not name.startswith("_")
