"""Import a user's own model, named on the command line as FILE.py:NAME or MODULE:NAME."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn

from jaxcnn.cli._own_code import importing_from, own_code
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.local_path import local_path


def own_model(spec: str, num_classes: int | None) -> nn.Module:
    """Return the Linen module at FILE.py:NAME or MODULE:NAME.

    NAME is a Linen module, or a class or function that returns a Linen module. Only subclasses of `nn.Module` and
    functions written in Python are called, with `num_classes` if they have this argument.

    Args:
      spec: value of `--model`, such as "net.py:Net".
      num_classes: number of logits, or None if the number is not known.

    Raises:
      UsageError: if the file or module cannot be imported, if NAME is missing, or if NAME is neither a
        Linen module nor a class or function that returns a Linen module.
    """
    source, _, attribute = spec.rpartition(":")
    if not source or not attribute.isidentifier():
        raise UsageError(f"{spec!r} does not name a model. Give the model as FILE.py:NAME or MODULE:NAME.")
    module = _imported(source)
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if not name.startswith("_") and _makes_models(value)]
        raise unknown_name(f"model in {source}", attribute, known)
    found = getattr(module, attribute)
    if isinstance(found, nn.Module):
        return found
    if not _makes_models(found):
        raise UsageError(
            f"{spec} has type {type(found).__name__}. "
            "Name a Linen module, or a class or function that returns a Linen module."
        )
    return _made(spec, found, num_classes)


def _makes_models(value: Any) -> bool:
    if inspect.isclass(value):
        return issubclass(value, nn.Module)
    return isinstance(value, nn.Module) or inspect.isfunction(value)


def _made(spec: str, factory: Any, num_classes: int | None) -> nn.Module:
    """Call a class or function, with `num_classes` if it has this argument, and return the Linen module it makes."""
    parameters = inspect.signature(factory).parameters
    fields = {"num_classes": num_classes} if "num_classes" in parameters and num_classes is not None else {}
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.name not in fields
    ]
    if required:
        raise UsageError(
            f"{spec} has required arguments: {', '.join(required)}. "
            "Name a Linen module, or a function whose only required argument is num_classes."
        )
    with own_code(lambda error: UsageError(f"the call of {spec} failed: {_described(error)}. Correct your code.")):
        made = factory(**fields)
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} returns {type(made).__name__}. Return a Linen module instead.")
    return made


def _imported(source: str) -> ModuleType:
    """Import a file or a module, and return the module.

    The import statements in a file also find modules in the folder of the file. If MODULE is given instead of a file,
    the current folder is searched, too.
    """
    is_file = source.endswith(".py")
    path = local_path("--model", source)
    if not is_file and source.partition(".")[0] in sys.stdlib_module_names:
        raise UsageError(f"{source} is a module of Python's standard library. Give your own file or module.")
    if is_file and not path.is_file():
        raise UsageError(f"{source} does not exist. Give the file of the model as FILE.py:NAME.")
    folder = path.resolve().parent if is_file else Path.cwd()

    def refusal(error: BaseException) -> UsageError:
        return UsageError(f"cannot import {source}: {_described(error)}. Correct your code or --model.")

    with importing_from(folder), own_code(refusal):
        return _run(path) if is_file else importlib.import_module(source)


def _run(path: Path) -> ModuleType:
    """Import a Python file as a module. Add a prefix to its name if another module already has this name."""
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    name = path.stem if known is None else f"_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("the file is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of their class
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _described(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
