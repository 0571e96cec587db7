"""The layers in front of the first stage that several families share, for large and for small images."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn

from jaxcnn.array_types import Array, Float, InputArray, Shaped
from jaxcnn.errors import unknown_name
from jaxcnn.layers import MaxPool, norm_relu

Kind = Literal["imagenet", "cifar"]

IMAGE_SHAPES: dict[Kind, tuple[int, int, int]] = {"imagenet": (224, 224, 3), "cifar": (32, 32, 3)}
"""Shape `(H, W, C)` of the images for which each stem is meant. Other sizes work too."""


def check_stem(kind: str) -> None:
    """Raise `UsageError` with the closest valid name if there is no such kind of stem."""
    if kind not in get_args(Kind):
        raise unknown_name("stem", kind, get_args(Kind))


class Stem(nn.Module):
    """The first convolution: 7x7 at stride 2 followed by max pooling ("imagenet"), or 3x3 at full size ("cifar").

    `[N, H, W, C] -> [N, ceil(H / 4), ceil(W / 4), features]`, or `[N, H, W, features]` for "cifar".

    `conv` and `norm` are constructors. A ReLU follows the normalization; None omits both. `kernel_size` and `pool` are
    the size of the kernel and whether there is a pooling, for "imagenet".
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
        if self.norm is not None:
            x = norm_relu(self.norm(name="norm"), x, train)
        return MaxPool(3, 2, padding=1, name="pool")(x) if self.kind == "imagenet" and self.pool else x
