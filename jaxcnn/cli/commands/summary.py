"""`jaxcnn summary`: print parameters, multiply-adds and receptive fields of a model, layer by layer."""

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxcnn import models
from jaxcnn.analysis import Row, Summary, summarize
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import plain
from jaxcnn.cli._own_code import importing_from, own_code
from jaxcnn.errors import UsageError, printable, unknown_name
from jaxcnn.train.config.checks import MAX_SIDE, is_a

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Flags:
    """Print parameters, multiply-adds and receptive fields of a model, layer by layer, without running it."""

    model: tyro.conf.Positional[str]
    """Name from `jaxcnn models`, or module:attribute. The attribute is a Linen module, a function or class that returns
    a Linen module, or any function of images."""
    input_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the images (default: the image shape of the model)."""
    image_size: int | None = None
    """Height and width of square images. The images have the number of channels that the model takes, or 3 if this
    number is unknown."""
    num_classes: int | None = None
    """Number of classes (default: the model's default number of classes)."""
    json: bool = False
    """Print the layers and the totals of the model as JSON."""


# Modules of jaxcnn whose functions return models or are functions of images. Functions of other modules train, write
# files or print.
OUR_PARTS = ("jaxcnn.models", "jaxcnn.layers", "jaxcnn.kernels")

MAX_CHANNELS = 2**16


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "summary", args)
    if ":" in flags.model:
        model = _imported(flags.model, flags.num_classes)
    else:
        model = models.create_model(flags.model, flags.num_classes)
    shape = _input_shape(flags, getattr(model, "image_shape", None))
    what = f"{flags.model} cannot be applied to images {_times(shape)}"
    with own_code(lambda error: UsageError(f"{what}: {_reason(error)}"), passes=(UsageError,)):
        summary = summarize(model, shape)
    if flags.json:
        totals = {"model": flags.model, "input_shape": list(shape)}
        print(json.dumps({**totals, **summary.to_dict()}, indent=2))
        return
    table = _table(summary)
    console = Console()
    if not console.is_terminal:  # do not wrap lines in a file or a pipe
        console = Console(width=max(Console(width=10_000).measure(table).maximum, 80))
    console.print(Text.assemble((printable(flags.model), "bold"), f", images {_times(shape)}"))
    console.print(table)
    console.print(_totals(summary), highlight=False, soft_wrap=True)


def _reason(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _input_shape(flags: Flags, own: Any) -> Shape:
    if flags.input_shape is not None and flags.image_size is not None:
        raise UsageError("--input-shape and --image-size are mutually exclusive. Omit one of the two flags.")
    own = own if is_a(own, Shape) else None  # a user's model may use the name `image_shape` for another value
    shape = flags.input_shape or own
    if flags.image_size is not None:
        shape = (flags.image_size, flags.image_size, own[2] if own else 3)
    if shape is None:
        raise UsageError(f"{flags.model} has no default image shape; pass --input-shape H W C")
    numbers = " ".join(map(str, shape))
    if min(shape) < 1:
        raise UsageError(f"image height, width and channels must be at least 1, got {numbers}")
    if max(shape[:2]) > MAX_SIDE or shape[2] > MAX_CHANNELS:
        raise UsageError(
            f"image height and width must be at most {MAX_SIDE}, and channels at most {MAX_CHANNELS}, got {numbers}"
        )
    return shape


def _imported(name: str, num_classes: int | None) -> nn.Module | Callable[..., Any]:
    """Return the model or function at `module:attribute`. An attribute that is a class or factory of models is called.

    Raises:
      UsageError: if the module cannot be imported or belongs to Python's standard library, or if the attribute is
        missing or has an unsupported type.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(
            f"cannot import {module_name!r}: this is not the name of a Python module; pass module:attribute"
        )
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise UsageError(f"{module_name} is a module of Python's standard library; pass the name of your own module")
    failed = f"cannot import {module_name!r}"
    with importing_from(Path.cwd()), own_code(lambda error: UsageError(f"{failed}: {_reason(error)}")):
        module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise unknown_name(f"attribute of {module_name}", attribute, public)
    found = getattr(module, attribute)
    if isinstance(found, nn.Module):
        if num_classes is not None:
            raise UsageError(f"{name} is a model instance; --num-classes applies only to model names and factories")
        return found
    if not callable(found):
        raise UsageError(f"{name} has type {type(found).__name__}; pass a Linen module, a factory or a function")
    if not _may_be_called(found):
        raise UsageError(
            f"{name} is not a model; pass a Linen module, a function that returns a Linen module, "
            "or a function of images"
        )
    return _made(name, found, num_classes)


def _may_be_called(found: Any) -> bool:
    """Return whether a callable is a Linen module class, or a Python function that may return a Linen module.

    Functions of Python's standard library, C functions, and functions of jaxcnn that train, write or print are not
    called, because they can end the process or write files.
    """
    if isinstance(found, functools.partial):
        return _may_be_called(found.func)
    if inspect.isclass(found):
        return issubclass(found, nn.Module) and found is not nn.Module
    function = inspect.unwrap(found)
    package = getattr(function, "__module__", None) or ""
    if not inspect.isfunction(function) or package.partition(".")[0] in sys.stdlib_module_names:
        return False
    return package.partition(".")[0] != "jaxcnn" or package.startswith(OUR_PARTS)


def _made(name: str, factory: Callable[..., Any], num_classes: int | None) -> nn.Module | Callable[..., Any]:
    parameters = inspect.signature(factory).parameters
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    is_class = inspect.isclass(factory)
    if num_classes is not None and "num_classes" not in parameters:
        raise UsageError(f"{name} has no argument num_classes; omit --num-classes")
    fields = {} if num_classes is None else {"num_classes": num_classes}
    missing = [parameter for parameter in required if parameter not in fields]
    if not missing:
        with own_code(lambda error: UsageError(f"{name} cannot be called: {_reason(error)}"), passes=(UsageError,)):
            made = factory(**fields)
        if isinstance(made, nn.Module):
            return made
        raise UsageError(f"{name} returns {type(made).__name__}; a factory must return a Linen module")
    if is_class or len(missing) > 1:
        raise UsageError(
            f"the factory {name} has required arguments: {', '.join(missing)}. Pass a factory that needs no arguments."
        )
    return factory  # a function that is applied to images


def _table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("output", overflow="fold")
    for name in ("params", "MACs", "field", "stride"):
        table.add_column(name, justify="right")
    for row in summary.rows:
        numbers = [f"{count:,}" if count else "" for count in (row.params, row.macs)]
        field = [_times(row.receptive_field), _times(row.stride)]
        table.add_row(plain(row.name), plain(row.kind), _times(row.output_shape[1:]), *numbers, *field)
    return table


def _totals(summary: Summary) -> str:
    costs = f"{summary.params:,} parameters, {summary.macs / 1e9:,.4g} GMACs, "
    costs += f"{summary.activation_bytes / 2**20:,.4g} MiB of activations for one image"
    last = _last_map(summary)
    if last is None:
        return costs
    shape, field, stride = map(_times, (last.output_shape[1:], last.receptive_field, last.stride))
    return f"{costs}\nlast feature map {shape}: receptive field {field} pixels, stride {stride}"


def _last_map(summary: Summary) -> Row | None:
    """Return the last row whose output is a feature map with a known stride, or None."""
    return next((row for row in reversed(summary.rows) if row.stride is not None), None)


def _times(sizes: Sequence[float] | None) -> str:
    return "" if sizes is None else "×".join(f"{size:g}" for size in sizes)
