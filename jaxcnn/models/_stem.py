"""The stem: layers before the first stage, which several families share, for large and for small images."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import unknown_name
from jaxcnn.layers import MaxPool, norm_relu, norm_relu_pool

Kind = Literal["imagenet", "cifar"]

IMAGE_SHAPES: dict[Kind, tuple[int, int, int]] = {"imagenet": (224, 224, 3), "cifar": (32, 32, 3)}
"""Shape `(H, W, C)` of the images for which each stem is meant. Images of other sizes work too."""


def check_stem(kind: str) -> None:
    """Raise `UsageError`, with the closest valid name, if `kind` is not "imagenet" or "cifar"."""
    if kind not in get_args(Kind):
        raise unknown_name("stem", kind, get_args(Kind))


class Stem(nn.Module):
    """The first convolution: 7x7 at stride 2 followed by max pooling ("imagenet"), or 3x3 at full size ("cifar").

    `[N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), features]`, or `[N, H, W, features]` if `kind` is "cifar".

    `conv` and `norm` are constructors of layers. A ReLU follows the normalization. With `norm=None`, the stem has no
    normalization and no ReLU. If `kind` is "imagenet", `kernel_size` is the size of the kernel, and max pooling follows
    if `pool` is true.
    """

    kind: Kind
    features: int
    conv: Callable[..., Any]
    norm: Callable[..., Any] | None
    kernel_size: int = 7
    pool: bool = True

    @nn.compact
    def __call__(self, x: Shaped[InputArray, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        check_stem(self.kind)
        kernel, stride = (self.kernel_size, 2) if self.kind == "imagenet" else (3, 1)
        x = self.conv(self.features, kernel, stride, padding=kernel // 2, name="conv")(x)
        norm = None if self.norm is None else self.norm(name="norm")
        if self.kind == "imagenet" and self.pool:
            pool = MaxPool(3, 2, padding=1, name="pool")
            return pool(x) if norm is None else norm_relu_pool(norm, pool, x, train)
        return x if norm is None else norm_relu(norm, x, train)
