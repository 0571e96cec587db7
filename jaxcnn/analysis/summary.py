"""Tabulate parameters, multiply-adds, memory and receptive fields of a model or function."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxcnn import kernels
from jaxcnn.analysis.image_size import too_small
from jaxcnn.analysis.receptive_field import Field, Interval
from jaxcnn.analysis.walk import Step, Walk, marked
from jaxcnn.errors import TooSmallError, UsageError
from jaxcnn.layers.loops import unrolled

Pair = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One call of a leaf module (a module that calls no other module), or one equation of a plain function.

    Attributes:
      name: path of the module, such as "stage1_block1/conv1"; for an equation, its named scopes.
      kind: class of the module, or name of the equation's primitive.
      output_shape: shape of the output for the whole batch, such as `[N, H, W, C]` for feature maps.
      params: number of trainable parameters. A module that is called several times counts in the row of its first call.
      macs: multiply-adds of convolutions and dot products for one image.
      receptive_field: (height, width) of a unit's receptive field in pixels. The field is nominal: borders are ignored,
        so the field can exceed the image. If a unit may see the whole image, the value is the size of the image. The
        value is None if the output does not depend on the image.
      stride: (vertical, horizontal) distance in pixels between the fields of adjacent units. After upsampling, the
        distance is below 1. The stride is None if the distance is undefined, as after global pooling.
      origin: (row, column) of the first pixel in the field of the first unit. Values in the padding are negative.
        The origin is None if `stride` is None.

    >>> from jaxcnn.layers import Conv
    >>> row = summarize(Conv(6, 5, padding=2), (28, 28, 1)).rows[0]
    >>> isinstance(row, Row), row.kind, row.output_shape, row.params, row.receptive_field
    (True, 'Conv', (1, 28, 28, 6), 156, (5, 5))
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    receptive_field: tuple[int, int] | None
    stride: Pair | None
    origin: Pair | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Summary:
    """The cost of a model. `str()` formats the cost as a table; `to_dict()` returns JSON values.

    Attributes:
      params: number of trainable parameters (the collection "params"); 0 for a plain function.
      macs: multiply-adds of all convolutions and dot products for one image, including operations outside of all rows.
      activation_bytes: bytes of the outputs of all rows, for the whole batch. This number estimates the memory that a
        backward pass needs: the compiler decides which outputs it stores and which it recomputes.
      rows: calls of leaf modules, in call order. Parameters and operations of other modules are in the totals only.

    >>> from jaxcnn.layers import Conv
    >>> summary = summarize(Conv(6, 5, padding=2), (28, 28, 1))
    >>> isinstance(summary, Summary), summary.macs, summary.to_dict()["params"]
    (True, 117600, 156)
    """

    params: int
    macs: int
    activation_bytes: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as nested dicts and lists that `json.dumps` accepts."""
        totals = {key: getattr(self, key) for key in ("params", "macs", "activation_bytes")}
        rows = [{key: list(v) if isinstance(v, tuple) else v for key, v in vars(row).items()} for row in self.rows]
        return {**totals, "rows": rows}

    def __str__(self) -> str:
        def times(sizes: Sequence[float] | None) -> str:
            return "-" if sizes is None else "×".join(f"{size:g}" for size in sizes)

        table = [["name", "kind", "output", "params", "MACs", "field", "stride"]]
        for row in self.rows:
            counts = [f"{row.params:,}", f"{row.macs:,}"]
            sees = [times(row.receptive_field), times(row.stride)]
            table.append([row.name, row.kind, times(row.output_shape), *counts, *sees])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for cells in table:
            padded = [c.ljust(w) if n < 3 else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
            lines.append("  ".join(padded).rstrip())
        lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
        lines.append(lines[1])
        mib = self.activation_bytes / 2**20
        lines.append(f"{self.params:,} parameters, {self.macs / 1e9:.3g} GMACs an image, {mib:.3g} MiB of activations")
        return "\n".join(lines)


def summarize(
    fn_or_model: nn.Module | Callable[[jax.Array], Any],
    input_shape: Sequence[int],
    *,
    dtype: Any = jnp.float32,
    count_padding: bool = True,
    train: bool = False,
) -> Summary:
    """Return the cost and the receptive fields of any function of images, without computing or allocating an array.

    Receptive fields are computed as in Araujo, Norris and Sim, *Computing Receptive Fields of Convolutional Neural
    Networks*, Distill, 2019. The fields are tracked through convolution, pooling, slices, sums, concatenation,
    reshapes, `jit`, `remat`, `scan` and `cond`. The output of any other operation counts as seeing the whole image. A
    receptive field may therefore be too large, and is never too small.

    Only the most expensive branch of a conditional counts. The body of a while loop or of a Pallas kernel counts once.
    Modules under `nn.jit` that share one trace have the same name in the table.

    The multiply-adds do not depend on whether XLA or native CPU kernels compute a layer (1 multiply-add is 2 flops).
    The flops that XLA counts do depend on this choice. `compiled.cost_analysis()` and Flax's
    `nn.tabulate(compute_flops=True)` count a custom call, such as a native CPU kernel, as 0 flops. For ResNet-18 at 64
    pixels, XLA counts 6.0e6 instead of 3.0e8 flops. To get the right count from XLA, lower the function with the XLA
    kernels: set `JAXCNN_KERNELS=xla`, or lower the function inside `with jaxcnn.kernels.use("xla"):`.

    Args:
      fn_or_model: a Linen module or any function of one array. A module with an argument `train` is called with
        `train=train`. The rows of a function that calls no modules are its convolutions, dot products and window
        reductions.
      input_shape: shape of the input, `[N, H, W, C]`, or `[H, W, C]` for one image.
      dtype: dtype of the images.
      count_padding: whether to count multiplications by the zeros of the padding, as most published counts do.
      train: whether to analyze the model in training mode. In training mode, batch normalization and all layers after
        it see the whole batch.

    Raises:
      UsageError: if `input_shape` is not 3 or 4 positive integers, or a layer of the model rejects this shape. If the
        images are too small, the message names the smallest size.

    >>> from jaxcnn.layers import Conv
    >>> print(summarize(Conv(6, 5, padding=2), (28, 28, 1)))
    name  kind  output     params     MACs  field  stride
    -----------------------------------------------------
          Conv  1×28×28×6     156  117,600    5×5     1×1
    -----------------------------------------------------
    156 parameters, 0.000118 GMACs an image, 0.0179 MiB of activations
    """
    numbers = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
    if len(numbers) not in (3, 4) or not all(isinstance(n, Integral) and n > 0 for n in numbers):
        raise UsageError(
            f"input_shape must be 3 or 4 positive integers, (H, W, C) or (N, H, W, C), got {input_shape!r}"
        )
    batch, height, width, channels = (int(n) for n in (1,) * (4 - len(numbers)) + numbers)
    images = jax.ShapeDtypeStruct((batch, height, width, channels), dtype)
    if isinstance(fn_or_model, nn.Module):
        try:
            variables, function = _abstract(fn_or_model, images, train)
        except TooSmallError:
            name, mode = type(fn_or_model).__name__, _mode(fn_or_model, train)
            raise too_small(name, fn_or_model, (height, width, channels), **mode) from None
    else:
        variables, function = {}, lambda _, images: fn_or_model(images)

    with kernels.inlined(), unrolled():  # the walk needs JAX operations, and each module at its own path
        closed = jax.make_jaxpr(marked(function))(variables, images)
    seen: Field = (Interval(axis=1), Interval(axis=2))
    walk = Walk(count_padding)
    walk.run(closed.jaxpr, [None] * (len(closed.jaxpr.invars) - 1) + [seen])

    steps = walk.modules or walk.equations
    params = _sizes(variables.get("params", {}))
    total = sum(params.values())
    rows = []
    for step in steps:
        path = tuple(step.name.split("/")) if step.name and walk.modules else ()
        own = [key for key in params if key[: len(path)] == path]
        count = sum(params.pop(key) for key in own)
        rows.append(_row(step, count, batch, (height, width)))
    activations = sum(math.prod(step.output.shape) * step.output.dtype.itemsize for step in steps)
    return Summary(total, walk.macs // batch, activations, tuple(rows))


def _abstract(model: nn.Module, images: jax.ShapeDtypeStruct, train: bool) -> tuple[Any, Callable[..., Any]]:
    """Return the shapes of a model's variables, and the model as a function of variables and images."""
    mode = _mode(model, train)

    def initialize(rngs: dict[str, jax.Array], x: jax.Array) -> Any:
        return model.init(rngs, x, **mode)

    def apply(variables: Any, x: jax.Array) -> Any:
        state = [collection for collection in variables if collection != "params"]
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        return model.apply(variables, x, rngs=rngs, mutable=state if train else False, **mode)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(initialize, {"params": key, "dropout": key}, images), apply


def _mode(model: nn.Module, train: bool) -> dict[str, Any]:
    """Return the keyword argument `train` as a dict, or an empty dict if the call of the model has no such argument."""
    return {"train": train} if "train" in inspect.signature(type(model).__call__).parameters else {}


def _sizes(params: Any) -> dict[tuple[str, ...], int]:
    """Return the number of elements of each parameter, by the path of the parameter."""
    leaves: dict[Any, Any] = flatten_dict(nn.unbox(params))
    return {tuple(map(str, path)): math.prod(leaf.shape) for path, leaf in leaves.items()}


def _row(step: Step, params: int, batch: int, size: tuple[int, int]) -> Row:
    sees = stride = origin = None
    if step.field is not None:
        v, h = step.field
        sees = (v.size if v else size[0], h.size if h else size[1])
        stride = (_number(v.step), _number(h.step)) if v and h else None
        origin = (_number(v.low), _number(h.low)) if v and h else None
    return Row(step.name, step.kind, tuple(step.output.shape), params, step.macs // batch, sees, stride, origin)


def _number(step: Fraction) -> float:
    return int(step) if step.denominator == 1 else float(step)
