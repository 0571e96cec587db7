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
    """Return the input of a model's classifier, or the outputs of any modules of the model.

    The code of the model needs no change. Under `jit`, layers that come after the returned features are not computed.

    Args:
      model: a Linen module that is called as `model(x, train=...)`.
      variables: parameters and running statistics of the model.
      x: images `[N, H, W, C]`, or any other input that the model accepts.
      at: path of the module whose output is returned, such as "stage3_block6/conv2"; `jaxcnn summary` lists all paths.
        If the module is called several times, its last output is returned. A sequence of paths returns a dict from
        path to output. None returns the input of the last layer, `head`: `[N, features]`.
      train: whether to use batch statistics and dropout. Updates of running statistics are discarded. In training, the
        output of a `BatchNorm` includes the residual and the ReLU if the model calls `jaxcnn.layers.norm_relu`. If the
        model calls `norm_relu_pool`, the output also includes the max pooling.
      rngs: dict from names to random keys, such as `{"dropout": key}`.

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
            raise UsageError(
                f"{type(model).__name__} has no module {HEAD!r} whose input could be returned. "
                "Pass the path of another module as `at`."
            )
        if path not in found:
            # A deep network has thousands of modules. If no path is close, list the paths at the top level only.
            near = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
            raise unknown_name("module path", path, near or {p for p in paths if "/" not in p})
    return found[wanted[0]] if at is None or isinstance(at, str) else {path: found[path] for path in wanted}
