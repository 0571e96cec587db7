"""Intermediate features: the output of any module inside a model, or the input of its classifier."""

import difflib
from collections.abc import Sequence
from typing import Any, overload

import flax.linen as nn

from jaxcnn.array_types import Array, InputArray, Shaped
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.layers.loops import unrolled

HEAD = "head"
"""Path of the last layer of every registered model."""

Paths = str | Sequence[str] | None


@overload
def features(
    model: nn.Module, variables: Any, x: InputArray, at: str | None = None, *, train: bool = False, rngs: Any = None
) -> Array: ...
@overload
def features(
    model: nn.Module, variables: Any, x: InputArray, at: Sequence[str], *, train: bool = False, rngs: Any = None
) -> dict[str, Array]: ...
def features(
    model: nn.Module,
    variables: Any,
    x: Shaped[InputArray, "n ..."],
    at: Paths = None,
    *,
    train: bool = False,
    rngs: Any = None,
) -> Shaped[InputArray, "..."] | dict[str, Shaped[InputArray, "..."]]:
    """Return the features in front of a model's classifier, or the outputs of any of its modules.

    The model is not changed. Under `jit`, layers behind the features are not computed.

    Args:
      model: a Linen module that is called as `model(x, train=...)`.
      variables: its parameters and running statistics.
      x: images `[N, H, W, C]`, or another input of the model.
      at: path of a module whose last output is returned, such as "stage3_block6/conv2"; `jaxcnn summary` lists them.
        Several paths return a dict. None returns the input of the last layer, `head`: `[N, features]`.
      train: whether to use batch statistics and dropout. Updates of running statistics are discarded. The output of a
        `BatchNorm` then includes the residual and the ReLU behind it, where a model uses `jaxcnn.layers.norm_relu`.
      rngs: random keys by name, `{"dropout": key}`.

    Raises:
      UsageError: there is no module at a path. The message suggests the closest valid path.

    >>> import jax
    >>> from jaxcnn.models import create_model
    >>> model, images = create_model("resnet20_cifar"), jax.numpy.ones((2, 32, 32, 3))
    >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
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
    with nn.intercept_methods(tap), unrolled():
        model.apply(variables, x, train=train, rngs=rngs, mutable=mutable)
    for path in wanted:
        if path not in found and at is None:
            raise UsageError(f"{type(model).__name__} has no module {HEAD!r} to take features in front of; give `at`")
        if path not in found:
            # A deep network has thousands of modules. If none is close, list those at the top level only.
            near = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
            raise unknown_name("tap", path, near or {p for p in paths if "/" not in p})
    return found[wanted[0]] if at is None or isinstance(at, str) else {path: found[path] for path in wanted}
