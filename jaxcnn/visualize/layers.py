"""Compute the output of any layer of a model, and the logits as a function of this output."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, InputArray, Shaped
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.layers.loops import unrolled


def layer_names(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of the modules whose output is feature maps `[N, H, W, C]`, in the order of computation.

    Args:
      model: a Linen module.
      variables: variables of the model, or their shapes.
      image_shape: shape `(H, W, C)` of the images.
    """
    return list(_shapes(model, variables, image_shape))


def layer_output(
    model: nn.Module, variables: Any, inputs: Shaped[InputArray, "n h w c"], layer: str
) -> Shaped[Array, "n h2 w2 c2"]:
    """Return the output `[N, H, W, C]` of the module at the path `layer` for normalized images `[N, H, W, C]`.

    Raises:
      UsageError: no module at the path `layer` returns feature maps. The message suggests the closest valid name.
    """
    check_layer(model, variables, inputs.shape[1:], layer)
    _, output = logits_and_output(lambda: model.apply(variables, inputs, train=False), layer)
    return output


def check_layer(model: nn.Module, variables: Any, image_shape: tuple[int, ...], layer: str) -> None:
    """Raise `UsageError`, with the closest valid name, if `layer` is not a module whose output is feature maps."""
    known = layer_names(model, variables, image_shape)
    if layer not in known:
        raise unknown_name("layer", layer, known)


def last_layer(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> str:
    """Return the path of the last module whose output is feature maps of more than one pixel.

    Raises:
      UsageError: no module of the model returns such feature maps.
    """
    shapes = _shapes(model, variables, image_shape)
    names = [name for name, shape in shapes.items() if shape[1] * shape[2] > 1]
    if not names:
        raise UsageError("the model has no layer whose output is feature maps. Use a convolutional network.")
    return names[-1]


def logits_and_output(run: Callable[[], Any], layer: str, offset: Any = None) -> tuple[Any, jax.Array]:
    """Return the result of `run()`, such as logits, and the output of the module `layer` during this call.

    `offset` is added to the output of the module before the next module uses the output. The gradient of the logits
    with respect to `offset` is then equal to the gradient with respect to the output.
    """
    outputs: list[jax.Array] = []

    def change(name: str, output: Any) -> Any:
        if name != layer:
            return output
        outputs.append(output)
        return output if offset is None else output + offset

    with nn.intercept_methods(_on_outputs(change)), unrolled():
        logits = run()
    return logits, outputs[0]


def _shapes(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of the feature maps of each module, without computing them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str, output: Any) -> Any:
        if name and getattr(output, "ndim", 0) == 4:
            shapes[name] = output.shape
        return output

    def run() -> Any:
        with nn.intercept_methods(_on_outputs(record)), unrolled():
            return model.apply(variables, jnp.zeros((1, *image_shape)), train=False)

    jax.eval_shape(run)
    return shapes


def _on_outputs(change: Callable[[str, Any], Any]) -> Callable[..., Any]:
    """Return a Linen interceptor that replaces the output of each module by `change(path, output)`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        return change("/".join(context.module.path), output) if context.method_name == "__call__" else output

    return intercept
