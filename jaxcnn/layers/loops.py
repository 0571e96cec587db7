"""Modules that differ only in their variables, applied in sequence by one loop in the program (`jax.lax.scan`).

The program contains the module once, so that its size and compile time do not grow with the number of modules. The
variables keep the names and shapes that they have without the loop: the program stacks them in front of it, and takes
the results apart behind it. Checkpoints, converted weights, optimizers and parameter paths therefore do not know of
the loop. The price is a copy of these variables and of their gradients in each step. `nn.scan` would store them stacked
instead.

On a CPU, convolutions within a loop are as fast as outside, with XLA's kernels too: jaxcnn arranges them in the layout
for which XLA has a fast routine. A loop over training steps of ResNet-20 takes 0.99x (0.97-1.00) the time of single
steps (`benchmarks/results/transformations`).

Within the loop, all modules have the path of none: interceptors, and functions that read a program module by module,
need the modules one by one. They trace the model within `unrolled`.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, InputArray, Shaped
from jaxcnn.errors import UsageError

# A part of the keys of JAX's caches: a function that was traced for the other choice is traced again.
_unrolled = jax.make_user_context(None)


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Trace models without loops over their blocks, for readers of modules and of programs."""
    with _unrolled(True):
        yield


def can_loop(parent: nn.Module) -> bool:
    """Return whether the children of `parent` may be applied in a loop.

    They may not within `unrolled`, while variables are initialized, and while intermediates are captured.
    """
    is_watched = parent.is_mutable_collection("intermediates")
    return not (_unrolled.value or parent.is_initializing() or is_watched)


def runs(
    layers: Sequence[nn.Module], varying: Sequence[str] = (), ways: Sequence[Any] | None = None
) -> list[list[nn.Module]]:
    """Divide a sequence of modules into runs that a loop can apply: equal fields, and variables of equal shapes.

    Args:
      layers: bound modules.
      varying: names of numeric fields that may differ within a run.
      ways: a value for each module; modules of different values are in different runs.
    """

    def kind(layer: nn.Module) -> Any:
        same: dict[str, Any] = dict.fromkeys(varying, 0.0)
        fields = layer.clone(parent=None, name=None, **same)
        leaves, tree = jax.tree.flatten(layer.variables)
        return fields, tree, [(leaf.shape, leaf.dtype) for leaf in leaves]

    kinds = list(zip(map(kind, layers), ways or [None] * len(layers), strict=True))
    starts = [index for index in range(1, len(layers)) if kinds[index] != kinds[index - 1]]
    return [list(layers[a:b]) for a, b in itertools.pairwise([0, *starts, len(layers)])]


def apply_in_loop(
    layers: Sequence[nn.Module],
    x: Shaped[InputArray, "*shape"],
    train: bool,
    *,
    varying: Sequence[str] = (),
    recompute: bool = False,
) -> Shaped[Array, "*shape"]:
    """Return `f_n(... f_2(f_1(x)))` for the modules of one of `runs`, called as `(x, train)`.

    Variables that the modules update or sow are stored under their own names. Random numbers differ from those without
    the loop: each module gets a key of its own for each stream, such as "dropout".

    Args:
      layers: bound modules.
      x: input of the first, `[N, H, W, C]`; every module keeps its shape.
      train: as for each module.
      varying: as in `runs`. Where their values differ, the modules get them as scalar arrays.
      recompute: recompute each module in the backward pass; only its input is kept.

    Raises:
      UsageError: a module changes the shape or the dtype of its input.
    """
    first = layers[0]
    assert first.scope is not None
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layer.variables for layer in layers))
    keys = {name: jax.random.split(first.make_rng(name), len(layers)) for name in first.scope.rngs}
    values = {name: [getattr(layer, name) for layer in layers] for name in varying}
    numbers = {name: jnp.array(row, jnp.float32) for name, row in values.items() if len(set(row)) > 1}
    template, mutable = first.clone(parent=None, name=None), first.scope.mutable or []

    def body(x: jax.Array, own: Any) -> tuple[jax.Array, Any]:
        variables, keys, numbers = own
        y, updates = template.clone(**numbers).apply(variables, x, train, rngs=keys, mutable=mutable)
        if (y.shape, y.dtype) != (x.shape, x.dtype):
            raise UsageError(
                f"a loop cannot apply {type(first).__name__}, which turns {x.dtype}{list(x.shape)} into "
                f"{y.dtype}{list(y.shape)}: shape and dtype must stay. Apply the modules one by one."
            )
        return y, updates

    if recompute:
        body = jax.checkpoint(body, prevent_cse=False)  # the loop keeps XLA from merging the two computations
    y, updates = jax.lax.scan(body, x, (variables, keys, numbers))
    for index, layer in enumerate(layers):
        for collection, tree in jax.tree.map(lambda leaf, index=index: leaf[index], updates).items():
            for name, value in tree.items():
                layer.put_variable(collection, name, value)
    return y
