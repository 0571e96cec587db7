"""Composition of layers: in sequence, in parallel, and around a shortcut."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers._dtypes import floating
from jaxcnn.layers._window import pair

Layer = Callable[..., Any]


def _call(layer: Layer, x: Any, train: bool) -> Any:
    """Return `layer(x, train)` if the layer has a parameter named `train`, else `layer(x)`."""
    call = type(layer).__call__ if isinstance(layer, nn.Module) else layer
    parameters = [p for p in inspect.signature(call).parameters.values() if p.name != "self"]
    if "train" not in [p.name for p in parameters]:
        return layer(x)
    second = parameters[min(1, len(parameters) - 1)]
    # Flax's transformed modules, such as `nn.vmap(BatchNorm)`, drop keyword arguments.
    if second.name == "train" and second.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return layer(x, train)
    return layer(x, train=train)


class Sequential(nn.Module):
    """Apply layers in sequence: `y = f_n(... f_2(f_1(x)))`.

    Each layer is a module or a function. A layer is called with `train` if it has a parameter named `train`. The first
    layer is applied to the input, such as images `[N, H, W, C]`.

    >>> import jax
    >>> from jaxcnn.layers import Conv, Dense, MaxPool, ReLU
    >>> net = Sequential([Conv(6, 5), ReLU(), MaxPool(2), Flatten(), Dense(10)])
    >>> net.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 1)))[0].shape
    (1, 10)
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        self.layers = tuple(self.layers)  # hashable
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        for layer in self.layers:
            x = _call(layer, x, train)
        return x


class Residual(nn.Module):
    """A residual block: `y = F(x) + shortcut(x)` (He et al., *Deep Residual Learning*, 2015, equations 1 and 2).

    The default shortcut is the identity. `ZeroPadShortcut` is the paper's option A, a shortcut without parameters. A
    1x1 `Conv` followed by a `BatchNorm` is the paper's option B, the projection. `body` (F in the equation) and
    `shortcut` are modules or functions. Each of the two is called with `train` if it has a parameter named `train`.
    `body` and `shortcut` must return arrays of equal shape, which is also the shape of the result.

    Raises:
      UsageError: the outputs of `body` and `shortcut` differ in shape.

    >>> import jax
    >>> from jaxcnn.layers import Conv
    >>> block = Residual(Conv(16, 3, strides=2, padding=1), ZeroPadShortcut(16, 2))
    >>> block.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 4)))[0].shape
    (1, 4, 4, 16)
    """

    body: Layer
    shortcut: Layer | None = None

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "..."], train: bool = False) -> Float[InputArray, "..."]:
        y = _call(self.body, x, train)
        skip = x if self.shortcut is None else _call(self.shortcut, x, train)
        if y.shape != skip.shape:
            raise UsageError(
                f"Residual cannot add outputs of different shapes: body {list(y.shape)}, shortcut {list(skip.shape)}. "
                "Use a shortcut that changes the shape as the body does, such as ZeroPadShortcut or a 1x1 Conv."
            )
        return floating(y) + floating(skip)


class ZeroPadShortcut(nn.Module):
    """A shortcut without parameters: keep every `strides`-th pixel, and pad the channels with zeros.

    Source: option A in He et al., *Deep Residual Learning*, 2015, section 3.3.
    `[N, H, W, C] -> [N, ceil(H / s), ceil(W / s), features]`, where `s` is `strides`.

    Raises:
      UsageError: `features` is less than the number of input channels, or `strides` is not positive.

    >>> ZeroPadShortcut(32, 2)(jnp.ones((1, 32, 32, 16))).shape
    (1, 16, 16, 32)
    """

    features: int
    strides: int = 1

    def __call__(self, x: Shaped[InputArray, "n h w c"]) -> Shaped[Array, "n h2 w2 features"]:
        missing = self.features - x.shape[-1]
        if missing < 0:
            raise UsageError(
                f"ZeroPadShortcut cannot reduce the number of channels: from {x.shape[-1]} to {self.features}. "
                f"Use features >= {x.shape[-1]}."
            )
        down, right = pair(self.strides, "strides")
        return jnp.pad(x[:, ::down, ::right], ((0, 0), (0, 0), (0, 0), (0, missing)))


class Concat(nn.Module):
    """Apply several branches to the same input, and concatenate their outputs along `axis` (default: the channels).

    Inception modules have this form. Each branch is a module or a function, and is called with `train` if it has a
    parameter named `train`. For images, `[N, H, W, C] -> [N, H', W', C_1 + C_2 + ...]`, where branch i returns C_i
    channels.

    Raises:
      UsageError: `branches` is empty, or the sizes of the outputs differ along an axis other than `axis`.

    >>> import jax
    >>> from jaxcnn.layers import Conv
    >>> module = Concat([Conv(64, 1), Conv(128, 3, padding=1)])
    >>> module.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 192)))[0].shape
    (1, 28, 28, 192)
    """

    branches: Sequence[Layer]
    axis: int = -1

    def __post_init__(self) -> None:
        self.branches = tuple(self.branches)  # hashable
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "..."], train: bool = False) -> Shaped[Array, "..."]:
        if not self.branches:
            raise UsageError("Concat needs at least one branch, got none")
        outputs = [_call(branch, x, train) for branch in self.branches]
        others = {tuple(size for axis, size in enumerate(y.shape) if axis != self.axis % y.ndim) for y in outputs}
        if len(others) != 1:
            shapes = ", ".join(str(list(y.shape)) for y in outputs)
            raise UsageError(
                f"Concat cannot join outputs of shapes {shapes} along axis {self.axis}. "
                "Use branches whose outputs have equal sizes along all other axes."
            )
        return jnp.concatenate(outputs, axis=self.axis)


class Flatten(nn.Module):
    """Flatten each example: `[N, H, W, C] -> [N, H * W * C]`.

    >>> Flatten()(jnp.ones((2, 5, 5, 16))).shape
    (2, 400)
    """

    def __call__(self, x: Shaped[InputArray, "n ..."]) -> Shaped[InputArray, "n features"]:
        return x.reshape(x.shape[0], -1)
