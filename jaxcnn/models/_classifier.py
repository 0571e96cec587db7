"""Base classes of the image classifiers: `Classifier`, and `StagedClassifier` for models that consist of stages."""

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

The module that this constructor returns is called as `(x, train)` with `x` of shape `[N, H, W, C]`. ConvNeXt also calls
this module with `x` of shape `[N, C]`. Use `BatchNorm`, `LayerNorm`, a `Partial` of one of these, or any other module
with this signature. A module without running statistics ignores `train`, as in this example:

    class GroupNorm(nn.GroupNorm):
        def __call__(self, x, train):
            return super().__call__(x)

    create_model("resnet50", norm=Partial(GroupNorm, num_groups=32))
"""


class Classifier(nn.Module, kw_only=True):
    """A model from images `[N, H, W, C]` to logits `[N, num_classes]`, called as `model(x, train)`.

    Fields:
      num_classes: number of logits, which are always float32.
      dtype: dtype of the computation; None uses the common dtype of the input and the parameters.
      param_dtype: dtype of the parameters.
    """

    num_classes: int = 1000
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def policy(self) -> dict[str, Any]:
        """The fields `dtype` and `param_dtype` of the model, for the constructors of all layers with parameters."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def flatten(self, x: Shaped[Array, "n h w c"], layer: str, positions: int | None) -> Shaped[Array, "n inputs"]:
        """Return feature maps `[N, H, W, C]` as the input `[N, inputs]` of the fully connected layer named `layer`.

        If `positions` is a number, the feature maps are first averaged to this number of rows and of columns. Raise
        `UsageError` if the weights of the layer do not fit the number of inputs.
        """
        x = x if positions is None else AdaptiveAvgPool(positions)(x)
        _, height, width, channels = x.shape
        weights = self.get_variable("params", layer)["kernel"] if self.has_variable("params", layer) else None
        if weights is not None and weights.shape[0] != height * width * channels:
            raise UsageError(
                f"{layer} has weights for {weights.shape[0] / channels:g} positions, but images of this size give "
                f"{height}x{width} positions. Use images of another size, or pass adaptive=True to the model."
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
      remat: stages to recompute in the backward pass, which saves memory and costs time: True for all stages, False for
        no stages, or a tuple of stage numbers. A size such as "8GB" is a budget for the activations on each device, or
        on all devices together in `jit` over a mesh. The cheapest blocks are then recomputed until the activations fit;
        see `jaxcnn.layers.recomputation`.
      stem: kind of the first layers: "imagenet" for large images, or "cifar" for images of 28x28 and 32x32.
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
        """Return the stages or blocks to recompute for images `x` `[N, H, W, C]`; see the function `recomputation`.

        Raises:
          UsageError: `remat` or `stem` is invalid.
        """
        check_stem(self.stem)
        return recomputation(self, x, train, stages)


def recomputation(model: Any, x: jax.Array, train: bool, stages: Collection[int]) -> Recomputed:
    """Return the stages or blocks of `model` to recompute for images `x` `[N, H, W, C]`.

    If the model's field `remat` is a size, the result is the names of the blocks to recompute. Otherwise, the result is
    `remat` itself. `stages` contains the valid stage numbers.

    Raises:
      UsageError: `remat` names a stage that is not in `stages`, or is a size that is too small or cannot be parsed.
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
