"""Small networks whose parts experiments vary."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, Flatten, ReLU, Sequential, initializers
from jaxcnn.models import create_model, features
from jaxcnn.models.googlenet import INCEPTION, ConvUnit, Inception
from jaxcnn.train import TrainState


def small_network(width: int, *, norm: bool, scale: float = 1.0, dropout: float = 0.0) -> nn.Module:
    """Four 3x3 convolutions, every second with stride 2, a fully connected layer and a classifier.

    What reaches the ReLU of the n-th layer is the output of module `layers_{2 * n - 2}`, with BN or without.

    Args:
      width: maps of the first convolution.
      norm: whether there is a batch normalisation in front of each ReLU.
      scale: factor on all initial kernels but the classifier's, which are He's.
      dropout: share of units left out in front of the classifier.
    """

    def layer(kind: Any, *args: Any, **fields: Any) -> list[nn.Module]:
        linear = kind(*args, **fields, kernel_init=lambda *a: scale * initializers.he_normal(*a))
        return [Sequential([linear, BatchNorm()] if norm else [linear]), ReLU()]

    shapes = ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2))
    layers = [x for maps, strides in shapes for x in layer(Conv, maps, 3, strides, padding=1)]
    return Sequential([*layers, Flatten(), *layer(Dense, 8 * width), Dropout(dropout), Dense(10)])


def reaching_relu(model: nn.Module, layer: int) -> Callable[[TrainState, Any], dict[str, jax.Array]]:
    """A probe of `small_network`: the distribution of what reaches the ReLU of a convolution (from 1) in training mode.

    It returns `mean` and `deviation` of each channel `[C]`, and 15th, 50th and 85th `percentiles` of four `[3, 4]`.
    """

    def probe(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        learned, keys = {"params": state.params, "batch_stats": state.batch_stats}, {"dropout": jax.random.key(0)}
        x = features(model, learned, batch["images"], f"layers_{2 * layer - 2}", train=True, rngs=keys)
        x = x.reshape(-1, x.shape[-1])
        percentiles = jnp.percentile(x[:, :4], jnp.array([15, 50, 85]), axis=0)
        return {"mean": x.mean(0), "deviation": x.std(0), "percentiles": percentiles}

    return probe


def module_3a(*, naive: bool) -> nn.Module:
    """GoogLeNet's first Inception module by itself, `[N, 28, 28, 192] -> [N, 28, 28, C]`."""
    unit = partial(ConvUnit, conv=partial(Conv, kernel_init=initializers.he_normal), norm=None)
    return Inception(INCEPTION["3a"], unit, naive)


def of_the_historical_line(name: str, by: int) -> nn.Module:
    """An architecture for small images, its widths divided by `by`, and GoogLeNet's modules' by twice that.

    If it is narrowed at all, DenseNet has three blocks of three layers. AlexNet sees images enlarged three times.
    """
    fields: dict[str, dict[str, Any]] = {
        "lenet5": {},
        "alexnet": {"features": _narrowed((64, 192, 384, 256, 256), by), "hidden": 4096 // by**2},
        "vgg11_bn": {"stem": "cifar", "widths": _narrowed((64, 128, 256, 512, 512), by)},
        "googlenet_bn": {"stem": "cifar", "aux_heads": False},
        "resnet18": {"stem": "cifar", "width": 64 // by},
        "densenet121": {"stem": "cifar"},
    }
    if by > 1:
        fields["googlenet_bn"]["modules"] = {key: _narrowed(row, 2 * by) for key, row in INCEPTION.items()}
        fields["densenet121"] |= {"block_sizes": (3, 3, 3), "growth_rate": 12}
    model = create_model(name, 10, **fields[name])
    return Sequential([lambda x: x.repeat(3, 1).repeat(3, 2), model]) if name == "alexnet" else model


def _narrowed(width: Any, by: int) -> Any:
    return tuple(_narrowed(w, by) for w in width) if isinstance(width, tuple) else width // by
