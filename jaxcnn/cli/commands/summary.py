"""`jaxcnn summary`: parameters, multiply-adds and receptive fields of a model, layer by layer."""

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

from jaxcnn import models
from jaxcnn.analysis import Row, Summary, summarize
from jaxcnn.cli._flags import parse
from jaxcnn.errors import UsageError, unknown_name

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Flags:
    """Print parameters, multiply-adds and receptive fields of a model, layer by layer, without running it."""

    model: tyro.conf.Positional[str]
    """Name from `jaxcnn models`, or module:attribute, where the attribute is a Linen module, a factory of modules, or
    any function of images."""
    input_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the images (default: the model's own)."""
    image_size: int | None = None
    """Height and width of the images; channels are the model's own, or 3."""
    num_classes: int | None = None
    """Number of classes (default: the model's own)."""
    json: bool = False
    """Print the rows and totals as JSON."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "summary", args)
    if ":" in flags.model:
        model = _imported(flags.model, flags.num_classes)
    else:
        model = models.create_model(flags.model, flags.num_classes)
    shape = _input_shape(flags, getattr(model, "image_shape", None))
    summary = summarize(model, shape)
    if flags.json:
        totals = {"model": flags.model, "input_shape": list(shape)}
        print(json.dumps({**totals, **summary.to_dict()}, indent=2))
        return
    table = _table(summary)
    console = Console()
    if not console.is_terminal:  # in a file or a pipe no line is wrapped
        console = Console(width=max(Console(width=10_000).measure(table).maximum, 80))
    console.print(f"[bold]{flags.model}[/], images {_times(shape)}", highlight=False)
    console.print(table)
    console.print(_totals(summary), highlight=False, soft_wrap=True)


def _input_shape(flags: Flags, own: Shape | None) -> Shape:
    if flags.input_shape is not None and flags.image_size is not None:
        raise UsageError("--input-shape and --image-size are mutually exclusive; pass one of them")
    shape = flags.input_shape or own
    if flags.image_size is not None:
        shape = (flags.image_size, flags.image_size, own[2] if own else 3)
    if shape is None:
        raise UsageError(f"{flags.model} has no default image shape; pass --input-shape H W C")
    if min(shape) < 1:
        raise UsageError(f"image height, width and channels must be at least 1, got {' '.join(map(str, shape))}")
    return shape


def _imported(name: str, num_classes: int | None) -> nn.Module | Callable[..., Any]:
    """Return the model or function at `module:attribute`; call the attribute if it is a factory.

    Raises:
      UsageError: the module cannot be imported, or the attribute is missing or of an unsupported type.
    """
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # unlike `python -m`, the console script does not import from the current directory
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module can raise anything
        raise UsageError(f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
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
    return _made(name, found, num_classes)


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
        made = factory(**fields)
        if isinstance(made, nn.Module):
            return made
        raise UsageError(f"{name} returns {type(made).__name__}; a factory must return a Linen module")
    if is_class or len(missing) > 1:
        raise UsageError(f"{name} requires {', '.join(missing)}; pass a factory without required arguments")
    return factory  # a function of images


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
        table.add_row(row.name, row.kind, _times(row.output_shape[1:]), *numbers, *field)
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
    """Return the last row whose units have positions in the image."""
    return next((row for row in reversed(summary.rows) if row.stride is not None), None)


def _times(sizes: Sequence[float] | None) -> str:
    return "" if sizes is None else "×".join(f"{size:g}" for size in sizes)
