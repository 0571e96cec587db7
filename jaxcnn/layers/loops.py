"""Apply modules with equal fields in one loop (`jax.lax.scan`) of the compiled program.

The program contains the module once, so that its size and compile time do not grow with the number of modules. Each
variable keeps the name and the shape that it has without the loop. The program stacks the variables before the loop,
and splits the results after the loop. Checkpoints, converted weights, optimizers and parameter paths are therefore the
same with and without the loop. The cost is a copy of these variables and of their gradients in each step. `nn.scan`
would avoid this copy by storing the variables stacked.

On a CPU, convolutions are as fast inside a loop as outside, also with XLA's kernels. jaxcnn arranges the arrays of
these convolutions in the layout for which XLA has a fast routine. A loop over training steps of ResNet-20 takes 0.99x
(0.97-1.00) the time of single steps (`benchmarks/results/transformations`).

Inside the loop, modules do not have their own module paths. Flax interceptors, and functions that analyze a program
module by module, need module paths. These interceptors and functions therefore trace the model within `unrolled`.
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

# A user context is part of the keys of JAX's caches: functions are traced again when its value changes.
_unrolled = jax.make_user_context(None)


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Within this context, trace models without loops over their blocks, so that each block has its own module path."""
    with _unrolled(True):
        yield


def can_loop(parent: nn.Module) -> bool:
    """Return whether one loop may apply the children of `parent`.

    Return False within `unrolled`, while variables are initialized, and while intermediates are captured.
    """
    is_watched = parent.is_mutable_collection("intermediates")
    return not (_unrolled.value or parent.is_initializing() or is_watched)


def runs(
    layers: Sequence[nn.Module], varying: Sequence[str] = (), ways: Sequence[Any] | None = None
) -> list[list[nn.Module]]:
    """Divide a sequence of modules into runs: neighbors with equal fields, whose variables have equal shapes.

    One loop can apply all modules of a run.

    Args:
      layers: modules that are bound to their variables, in the order in which they are applied.
      varying: names of numeric fields that may differ within a run.
      ways: one value for each module; modules with different values are put in different runs.
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
    """Return `f_n(... f_2(f_1(x)))`, where `f_i` calls module i of `layers` as `(x, train)`.

    Variables that the modules update or sow are stored under the names that they have without the loop. Random numbers
    differ from the random numbers without the loop: each module gets its own key for each stream, such as "dropout".

    Args:
      layers: modules that are bound to their variables: one of the runs that `runs` returns.
      x: input of the first module, `[N, H, W, C]`; every module must return an array of this shape.
      train: whether the modules are in training mode.
      varying: names of numeric fields, as in `runs`. If the values of a field differ, each module gets its value as a
        scalar array.
      recompute: whether to recompute each module in the backward pass, so that memory holds only the inputs of the
        modules.

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
                f"a loop cannot apply {type(first).__name__}, which changes {x.dtype}{list(x.shape)} to "
                f"{y.dtype}{list(y.shape)}. Keep the shape and dtype, or apply the modules one by one."
            )
        return y, updates

    if recompute:
        body = jax.checkpoint(body, prevent_cse=False)  # scan keeps XLA from merging it with the forward pass
    y, updates = jax.lax.scan(body, x, (variables, keys, numbers))
    for index, layer in enumerate(layers):
        for collection, tree in jax.tree.map(lambda leaf, index=index: leaf[index], updates).items():
            for name, value in tree.items():
                layer.put_variable(collection, name, value)
    return y
