"""The output of any layer of a model, and how the logits depend on it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError, unknown_name


def layer_names(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> list[str]:
    """Paths of the modules whose output is feature maps `[N, H, W, C]`, in the order in which they are computed."""
    return list(_shapes(model, variables, image_shape))


def layer_output(model: nn.Module, variables: Any, inputs: jax.Array, layer: str) -> jax.Array:
    """The feature maps `[N, H, W, C]` that the module at the path `layer` gives for normalised images.

    Raises:
      UsageError: there is no such module; the nearest is named.
    """
    check_layer(model, variables, inputs.shape[1:], layer)
    _, output = tap(model, variables, inputs, layer, None)
    return output


def check_layer(model: nn.Module, variables: Any, image_shape: tuple[int, ...], layer: str) -> None:
    """Raises `UsageError`, naming the nearest one, if no module of this path gives feature maps."""
    known = layer_names(model, variables, image_shape)
    if layer not in known:
        raise unknown_name("layer", layer, known)


def last_layer(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> str:
    """The path of the last module that gives feature maps of more than one pixel."""
    shapes = _shapes(model, variables, image_shape)
    names = [name for name, shape in shapes.items() if shape[1] * shape[2] > 1]
    if not names:
        raise UsageError("the model has no layer that gives feature maps")
    return names[-1]


def tap(model: nn.Module, variables: Any, inputs: Any, layer: str, added: Any) -> tuple[jax.Array, jax.Array]:
    """Logits, and the output of a module, to which `added` was added on its way to the next one."""
    outputs: list[jax.Array] = []

    def change(name: str, output: Any) -> Any:
        if name != layer:
            return output
        outputs.append(output)
        return output if added is None else output + added

    with nn.intercept_methods(_on_outputs(change)):
        logits: Any = model.apply(variables, inputs, train=False)
    return logits, outputs[0]


def _shapes(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of all feature maps by module; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Any) -> Any:
        if name and getattr(output, "ndim", 0) == 4:
            found[name] = output.shape
        return output

    def run() -> Any:
        with nn.intercept_methods(_on_outputs(note)):
            return model.apply(variables, jnp.zeros((1, *image_shape)), train=False)

    jax.eval_shape(run)
    return found


def _on_outputs(change: Callable[[str, Any], Any]) -> Callable[..., Any]:
    """An interceptor of Linen modules that passes what a module returns through `change(path, output)`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        return change("/".join(context.module.path), output) if context.method_name == "__call__" else output

    return intercept
