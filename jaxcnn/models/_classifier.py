"""Fields and head of every image classifier, and of those that consist of stages."""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcnn.array_types import Array, Float, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.layers import AdaptiveAvgPool, BatchNorm, Dense, Flatten
from jaxcnn.layers.recomputation import parse_size, plan
from jaxcnn.models._stages import Recomputed, Remat
from jaxcnn.models._stem import IMAGE_SHAPES, Kind, check_stem

Norm = Callable[..., Any]
"""Constructor of a normalization layer, called as `norm(dtype=..., param_dtype=..., name=...)`.

Its module is called as `(x, train)` with `x` of shape `[N, H, W, C]`, in ConvNeXt also `[N, C]`. `BatchNorm`,
`LayerNorm`, a `Partial` of either, and every other module with this signature will do. A module without running
statistics ignores `train`:

    class GroupNorm(nn.GroupNorm):
        def __call__(self, x, train):
            return super().__call__(x)

    create_model("resnet50", norm=Partial(GroupNorm, num_groups=32))
"""


class Classifier(nn.Module, kw_only=True):
    """A map from images `[N, H, W, C]` to logits `[N, num_classes]`, called as `(x, train)`.

    Fields:
      num_classes: number of logits, which are always float32.
      dtype, param_dtype: dtypes of the computation (None infers it from input and parameters) and of the parameters.
    """

    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def policy(self) -> dict[str, Any]:
        """The fields that every layer with parameters takes from the model."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def flatten(self, x: Shaped[Array, "n h w c"], layer: str, positions: int | None) -> Shaped[Array, "n inputs"]:
        """Return feature maps `[N, H, W, C]` as the input `[N, inputs]` of the fully connected layer named `layer`.

        `positions` is the number of rows and of columns to which they are averaged first, or None for no averaging.
        Raise `UsageError` if the layer has weights for another number of positions.
        """
        x = x if positions is None else AdaptiveAvgPool(positions)(x)
        _, height, width, channels = x.shape
        weights = self.get_variable("params", layer)["kernel"] if self.has_variable("params", layer) else None
        if weights is not None and weights.shape[0] != height * width * channels:
            raise UsageError(
                f"{layer} has weights for {weights.shape[0] / channels:g} positions, and images of this size leave "
                f"{height}x{width}. Use images of another size, or pass adaptive=True to the model."
            )
        return Flatten()(x)

    @nn.nowrap
    def logits(self, x: Shaped[Array, "n c"]) -> Float[Array, "n classes"]:
        """Return the output `[N, num_classes]` of the last fully connected layer, `head`, for features `[N, C]`."""
        return Dense(self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="head")(x)


class StagedClassifier(Classifier, kw_only=True):
    """A classifier that consists of a stem and numbered stages.

    Fields:
      norm: constructor of the normalization layers, such as `Partial(BatchNorm, axis_name=None)`; see `Norm`.
      remat: stages to recompute in the backward pass, for less memory and more time: True, or a tuple of their numbers.
        A size such as "8GB" is a budget for activations on each device (on all devices together in `jit` over a mesh).
        Single blocks are then recomputed until the activations fit, the cheapest first; see
        `jaxcnn.layers.recomputation`.
      stem: "imagenet" for large images, or "cifar" for images of 28x28 and 32x32.
    """

    norm: Norm | None = BatchNorm
    remat: Remat = False
    stem: Kind = "imagenet"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images in the paper."""
        return IMAGE_SHAPES[self.stem]

    @nn.nowrap
    def recomputation(self, x: jax.Array, train: bool, stages: Collection[int]) -> Recomputed:
        """Return the parts to recompute for images `x` `[N, H, W, C]`; see the function `recomputation`.

        Raises:
          UsageError: also if `stem` is unknown.
        """
        check_stem(self.stem)
        return recomputation(self, x, train, stages)


def recomputation(model: Any, x: jax.Array, train: bool, stages: Collection[int]) -> Recomputed:
    """Return the field `remat` of a model for images `x` `[N, H, W, C]`, with the names of blocks in place of a size.

    Raises:
      UsageError: `remat` names a stage that is not in `stages`, or a size that is too small.
    """
    remat = model.remat
    if isinstance(remat, str):
        if (budget := parse_size(remat)) is None:
            raise UsageError(f"remat is not a size: {remat!r}. Give a number with a unit, such as '8GB' or '512MiB'.")
        if not train or model.is_initializing():
            return False
        return plan(model.clone(parent=None, name=None, remat=False), model.variables, x, budget).recomputed
    named = () if isinstance(remat, bool) else remat if isinstance(remat, tuple | list) else (remat,)
    if any(isinstance(stage, bool) or stage not in stages for stage in named):
        known = ", ".join(map(str, sorted(stages)))
        raise UsageError(
            f"remat must be True, False or a tuple of stages out of {known}, or a size such as '8GB', got {remat!r}"
        )
    return remat if isinstance(remat, bool) else tuple(named)
