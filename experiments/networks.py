"""Small networks whose parts the experiments vary."""

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
    """Return four 3x3 convolutions, every second with stride 2, a fully connected layer and a classifier.

    The input of the n-th layer's ReLU is the output of module `layers_{2 * n - 2}`, with or without normalization.

    Args:
      width: channels of the first convolution.
      norm: whether each ReLU is preceded by batch normalization.
      scale: factor on the He-initialized kernels (all but the classifier's).
      dropout: dropout rate in front of the classifier.
    """

    def scaled_he(*args: Any) -> jax.Array:
        return scale * initializers.he_normal(*args)

    def layer(linear: nn.Module) -> list[nn.Module]:
        return [Sequential([linear, BatchNorm()] if norm else [linear]), ReLU()]

    layers = []
    for channels, stride in ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2)):
        layers += layer(Conv(channels, 3, stride, padding=1, kernel_init=scaled_he))
    layers += [Flatten(), *layer(Dense(8 * width, kernel_init=scaled_he)), Dropout(dropout), Dense(10)]
    return Sequential(layers)


def relu_inputs(model: nn.Module, layer: int) -> Callable[[TrainState, Any], dict[str, jax.Array]]:
    """Return a probe of `small_network` for the input distribution of a convolution's ReLU, in training mode.

    The probe returns `mean` and `deviation` of each channel `[C]`, and the 15th, 50th and 85th `percentiles` of the
    first four channels `[3, 4]`.

    Args:
      model: a `small_network`.
      layer: number of the convolution, counted from 1.
    """

    def probe(state: TrainState, batch: Any) -> dict[str, jax.Array]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        rngs = {"dropout": jax.random.key(0)}
        x = features(model, variables, batch["image"], f"layers_{2 * layer - 2}", train=True, rngs=rngs)
        x = x.reshape(-1, x.shape[-1])
        percentiles = jnp.percentile(x[:, :4], jnp.array([15, 50, 85]), axis=0)
        return {"mean": x.mean(0), "deviation": x.std(0), "percentiles": percentiles}

    return probe


def module_3a(*, naive: bool) -> nn.Module:
    """Return GoogLeNet's first Inception module alone, `[N, 28, 28, 192] -> [N, 28, 28, C]`."""
    unit = partial(ConvUnit, conv=partial(Conv, kernel_init=initializers.he_normal), norm=None)
    return Inception(INCEPTION["3a"], unit, naive)


def historical_model(name: str, divisor: int) -> nn.Module:
    """Return an architecture for small images, with all widths divided by `divisor` (GoogLeNet's by twice that).

    With a divisor above 1, DenseNet has three blocks of three layers. AlexNet enlarges its images three times.

    Args:
      name: "lenet5", "alexnet", "vgg11_bn", "googlenet_bn", "resnet18" or "densenet121".
      divisor: 1 for the full width.
    """
    fields: dict[str, dict[str, Any]] = {
        "lenet5": {},
        "alexnet": {"features": _narrowed((64, 192, 384, 256, 256), divisor), "hidden": 4096 // divisor**2},
        "vgg11_bn": {"stem": "cifar", "widths": _narrowed((64, 128, 256, 512, 512), divisor)},
        "googlenet_bn": {"stem": "cifar", "aux_heads": False},
        "resnet18": {"stem": "cifar", "width": 64 // divisor},
        "densenet121": {"stem": "cifar"},
    }
    if divisor > 1:
        fields["googlenet_bn"]["modules"] = {key: _narrowed(row, 2 * divisor) for key, row in INCEPTION.items()}
        fields["densenet121"] |= {"block_sizes": (3, 3, 3), "growth_rate": 12}
    model = create_model(name, 10, **fields[name])
    if name == "alexnet":
        return Sequential([lambda x: x.repeat(3, 1).repeat(3, 2), model])
    return model


def _narrowed(widths: Any, divisor: int) -> Any:
    """Divide widths, or nested tuples of widths."""
    if isinstance(widths, tuple):
        return tuple(_narrowed(width, divisor) for width in widths)
    return widths // divisor
