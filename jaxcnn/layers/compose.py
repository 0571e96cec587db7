"""How layers are joined: one after another, side by side, and around."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.errors import UsageError
from jaxcnn.layers._window import pair

Layer = Callable[..., Any]


def _call(layer: Layer, x: Any, train: bool) -> Any:
    """`layer(x)`, with `train` if the layer asks for it: an activation does not, a dropout does."""
    function = type(layer).__call__ if isinstance(layer, nn.Module) else layer
    takes_train = "train" in inspect.signature(function).parameters
    return layer(x, train=train) if takes_train else layer(x)


class Sequential(nn.Module):
    """Layers applied one after another: `y = f_n(... f_2(f_1(x)))`. A plain function is a layer too.

    >>> import jax
    >>> from jaxcnn.layers import Conv, Dense, MaxPool, ReLU
    >>> net = Sequential([Conv(6, 5), ReLU(), MaxPool(2), Flatten(), Dense(10)])
    >>> y, variables = net.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
    >>> y.shape
    (1, 10)
    """

    layers: Sequence[Layer]

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        for layer in self.layers:
            x = _call(layer, x, train)
        return x


class Residual(nn.Module):
    """A residual block: `y = F(x) + shortcut(x)` (He et al., *Deep Residual Learning*, 2015, equations 1 and 2).

    The shortcut is the identity if none is given; `ZeroPadShortcut` is the paper's parameter-free option A, and a
    1x1 `Conv` with a `BatchNorm` behind it its projection, option B.

    Raises:
      UsageError: if the two summands differ in shape.

    >>> import jax
    >>> from jaxcnn.layers import Conv
    >>> block = Residual(Conv(16, 3, strides=2, padding=1), ZeroPadShortcut(16, 2))
    >>> block.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 4)))[0].shape
    (1, 4, 4, 16)
    """

    body: Layer
    shortcut: Layer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = _call(self.body, x, train)
        skip = x if self.shortcut is None else _call(self.shortcut, x, train)
        if y.shape != skip.shape:
            raise UsageError(
                f"Residual cannot add the body's {list(y.shape)} and the shortcut's {list(skip.shape)}; "
                "give a shortcut that changes the shape as the body does (ZeroPadShortcut, or a 1x1 Conv)"
            )
        return y + skip


class ZeroPadShortcut(nn.Module):
    """The parameter-free shortcut, option A: every `strides`-th pixel, and zeros for the channels that are missing.

    He et al., *Deep Residual Learning*, 2015, section 3.3. `[N, H, W, C] -> [N, ceil(H / s), ceil(W / s), features]`.

    Raises:
      UsageError: if there are fewer `features` than channels, or `strides` are not positive.

    >>> ZeroPadShortcut(32, 2)(jnp.ones((1, 32, 32, 16))).shape
    (1, 16, 16, 32)
    """

    features: int
    strides: int = 1

    def __call__(self, x: jax.Array) -> jax.Array:
        missing = self.features - x.shape[-1]
        if missing < 0:
            raise UsageError(f"ZeroPadShortcut cannot take {x.shape[-1]} channels down to {self.features}")
        down, right = pair(self.strides, "strides")
        x = x[:, ::down, ::right]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))


class Concat(nn.Module):
    """Branches side by side on the same input, their outputs joined along `axis` (channels by default).

    The Inception module's and, with the input itself as a branch, the dense block's way to join feature maps.

    Raises:
      UsageError: if outputs differ in anything but that axis, or there is no branch.

    >>> import jax
    >>> from jaxcnn.layers import Conv
    >>> module = Concat([Conv(64, 1), Conv(128, 3, padding=1)])
    >>> module.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 192)))[0].shape
    (1, 28, 28, 192)
    """

    branches: Sequence[Layer]
    axis: int = -1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if not self.branches:
            raise UsageError("Concat needs at least one branch, got none")
        outputs = [_call(branch, x, train) for branch in self.branches]
        if len({_without(y.shape, self.axis) for y in outputs}) != 1:
            shapes = ", ".join(str(list(y.shape)) for y in outputs)
            raise UsageError(f"Concat cannot join shapes {shapes} along axis {self.axis}: the others must agree")
        return jnp.concatenate(outputs, axis=self.axis)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


class Flatten(nn.Module):
    """Each example's values in one row: `[N, H, W, C] -> [N, H * W * C]`. Computes nothing.

    >>> Flatten()(jnp.ones((2, 5, 5, 16))).shape
    (2, 400)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)
