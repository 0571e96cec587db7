"""Feature taps: what any module inside a model returns, and what its classifier sees, without a change to the model."""

import difflib
from collections.abc import Sequence
from typing import Any, overload

import flax.linen as nn
import jax

from jaxcnn.errors import UsageError, unknown_name

HEAD = "head"
"""Path of the classifier in every model here."""


@overload
def features(
    model: nn.Module, variables: Any, x: jax.Array, at: str | None = None, *, train: bool = False, rngs: Any = None
) -> jax.Array: ...
@overload
def features(
    model: nn.Module, variables: Any, x: jax.Array, at: Sequence[str], *, train: bool = False, rngs: Any = None
) -> dict[str, jax.Array]: ...
def features(
    model: nn.Module,
    variables: Any,
    x: jax.Array,
    at: str | Sequence[str] | None = None,
    *,
    train: bool = False,
    rngs: Any = None,
) -> jax.Array | dict[str, jax.Array]:
    """The features in front of a model's classifier, or those that any of its modules returns.

    Under `jit` nothing is computed that they do not depend on.

    Args:
      model: any Linen module that is called as `model(x, train=...)`.
      variables: its parameters and running statistics.
      x: images `[N, H, W, C]`.
      at: path of a module as `jaxcnn summary` prints it or of one that holds such, "stage3_block6" or
        "stage3_block6/conv2"; several give a dict. None is the input of the classifier `head`, `[N, features]`.
      train: whether batch statistics and dropout are those of training; updates of running statistics are dropped.
      rngs: random keys by name, `{"dropout": key}`.

    Returns:
      What the module returned, at its last call if there were several.

    Raises:
      UsageError: a path at which there is no module; the nearest one is named.

    >>> import jax, jax.numpy as jnp
    >>> from jaxcnn.models import create_model
    >>> model, images = create_model("resnet20_cifar"), jnp.ones((2, 32, 32, 3))
    >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    >>> jax.eval_shape(lambda v: features(model, v, images), variables).shape
    (2, 64)
    >>> jax.eval_shape(lambda v: features(model, v, images, at="stage2_block3"), variables).shape
    (2, 16, 16, 32)
    """
    wanted = [HEAD] if at is None else [at] if isinstance(at, str) else list(at)
    found: dict[str, Any] = {}
    paths: list[str] = []

    def tap(call: Any, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and path:
            paths.append(path)
            if path in wanted:
                found[path] = args[0] if at is None else output
        return output

    mutable = [collection for collection in variables if collection != "params"] if train else False
    with nn.intercept_methods(tap):
        model.apply(variables, x, train=train, rngs=rngs, mutable=mutable)
    for path in wanted:
        if path not in found and at is None:
            raise UsageError(f"{type(model).__name__} has no module {HEAD!r} to take features in front of; give `at`")
        if path not in found:
            raise _unknown(path, paths)
    return found[wanted[0]] if at is None or isinstance(at, str) else {path: found[path] for path in wanted}


def _unknown(path: str, paths: Sequence[str]) -> UsageError:
    # A deep network has thousands of modules: if none is near, those at the top say enough.
    near = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
    return unknown_name("tap", path, near or dict.fromkeys(p for p in paths if "/" not in p))
