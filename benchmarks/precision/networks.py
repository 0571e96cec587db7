"""Networks, batches and gradients by jaxcnn for the comparison with torch (`benchmarks.precision.gradients`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn import kernels
from jaxcnn.data import open_dataset
from jaxcnn.models import create_model
from jaxcnn.train import Classification
from jaxcnn.weights import layout

Arrays = list[np.ndarray]
"""Parameters or their gradients, in the order of the layers and in torch's layout."""


@dataclass(frozen=True)
class Network:
    """A network without dropout that jaxcnn and torch can both compute.

    Attributes:
      model: name of the model.
      image_shape: `(H, W, C)`.
      options: fields of the model.
      flattened: number of channels of the feature map that a dense layer flattens, by the name of the layer.
    """

    model: str
    image_shape: tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    flattened: dict[str, int] = field(default_factory=dict)


NETWORKS = {
    network.model: network
    for network in (
        Network("lenet5", (28, 28, 1), flattened={"C5": 16}),
        Network("resnet20_cifar", (32, 32, 3)),
        Network("vgg11_bn", (32, 32, 3), {"stem": "cifar", "num_classes": 10}),
        Network("resnet18", (64, 64, 3)),
    )
}


def batches(network: Network, count: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of images, float32 `[N, H, W, C]`, and their labels `[N]`.

    The images are Fashion-MNIST, resized, standardized and repeated in each channel. Noise of one level of gray makes
    pixels of the constant background differ. Otherwise, windows of max pooling would have several equal maxima, and
    libraries would choose different ones.
    """
    images, labels = open_dataset("fashion_mnist_mini").read("train")
    random = np.random.default_rng(0)
    found = []
    for start in range(0, count * batch_size, batch_size):
        pixels = images[start : start + batch_size].astype(np.float32)
        x = np.asarray(jax.image.resize(pixels, (len(pixels), *network.image_shape[:2], 1), "linear"))
        x = x + random.uniform(-0.5, 0.5, (len(pixels), *network.image_shape)).astype(np.float32)
        found.append(((x - x.mean()) / x.std(), labels[start : start + batch_size]))
    return found


def layers(network: Network) -> list[tuple[str, ...]]:
    """Return the paths of the parameters in torch's order: that of the calls, with a block's shortcut at its end."""
    paths: list[tuple[str, ...]] = []

    def trace() -> None:
        model = create_model(network.model, **network.options)
        variables: Any = model.init(jax.random.key(0), jnp.zeros((1, *network.image_shape)), train=False)
        paths.extend(flatten_dict(variables["params"]))  # a result of `eval_shape` would be sorted by name

    jax.eval_shape(trace)
    blocks = list(dict.fromkeys(path[0] for path in paths))
    return sorted(paths, key=lambda path: (blocks.index(path[0]), path[1].startswith("shortcut")))


def initial(network: Network) -> dict[tuple[str, ...], np.ndarray]:
    """Return float32 parameters by their path, in the order of the layers.

    Biases and the parameters of batch normalization get noise, which tells them apart: their initial values are equal.
    """
    model = create_model(network.model, **network.options)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *network.image_shape)), train=False))
    found: Any = flatten_dict(init(jax.random.key(0))["params"])
    random = np.random.default_rng(0)
    values = {path: np.asarray(found[path]) for path in layers(network)}
    return {
        path: x + random.normal(0, 0.1, x.shape).astype(np.float32) if x.ndim == 1 else x for path, x in values.items()
    }


def to_torch(network: Network, values: dict[tuple[str, ...], Any]) -> Arrays:
    """Return parameters or gradients, by their paths, in torch's layout."""
    return [layout.to_torch(np.asarray(x), network.flattened.get(path[-2])) for path, x in values.items()]


def gradient(
    network: Network, params: dict[tuple[str, ...], np.ndarray], dtype: str, choice: Literal["auto", "xla"]
) -> Callable[[np.ndarray, np.ndarray], tuple[float, Arrays]]:
    """Return a compiled function from images and labels to the loss and its gradients in training mode.

    Args:
      network: the network.
      params: its parameters.
      dtype: dtype of the computation. In float64, the classifier is too, which is float32 in other dtypes.
      choice: the kernels; see `jaxcnn.kernels.use`. They have no native form in float64.
    """
    is_wide = dtype == "float64"
    param_dtype = dtype if is_wide else "float32"
    task = Classification()

    def loss(params: Any, batch_stats: Any, batch: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        with nn.intercept_methods(_wide_classifier if is_wide else _unchanged):
            return task.loss(model, variables, batch, {})[0]

    with jax.enable_x64(is_wide):
        model = create_model(network.model, dtype=jnp.dtype(dtype), param_dtype=param_dtype, **network.options)
        shapes: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *network.image_shape)), False))
        batch_stats = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.get("batch_stats", {}))
        compiled = jax.jit(jax.value_and_grad(loss))

    def compute(images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
        with jax.enable_x64(is_wide), kernels.use(choice):
            given: Any = unflatten_dict({path: jnp.asarray(x, param_dtype) for path, x in params.items()})
            batch = {"image": jnp.asarray(images, param_dtype), "label": jnp.asarray(labels)}
            value, gradients = compiled(given, batch_stats, batch)
            found = flatten_dict(gradients)
        return float(value), to_torch(network, {path: found[path] for path in params})

    return compute


def _wide_classifier(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Compute the last dense layer, whose dtype is float32 in every model, in the dtype of its parameters."""
    module = context.module
    if module.name != "head" or context.method_name != "__call__":
        return call(*args, **kwargs)
    return args[0] @ module.variables["params"]["kernel"] + module.variables["params"]["bias"]


def _unchanged(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    return call(*args, **kwargs)
