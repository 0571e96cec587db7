"""Use a jaxcnn model in a Flax NNX program.

The models of jaxcnn are Flax Linen modules, which are pure functions of their variables. `wrap` turns a Linen model
into an NNX module with Flax's bridge. The NNX module can be a part of an NNX network, and `nnx.Optimizer` can train it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxcnn.array_types import Array, Float, Num
from jaxcnn.errors import UsageError

__all__ = ["Wrapped", "wrap"]


class Wrapped(nnx.Module):
    """An NNX module that wraps a Linen model and returns the same outputs.

    `train()` and `eval()` select the mode, as for other NNX modules. In training mode a call updates the running
    statistics of batch normalization. Outputs of auxiliary classifiers are not available.

    >>> from jaxcnn import create_model
    >>> model: Wrapped = wrap(create_model("lenet5"))
    >>> model.eval()
    >>> model.deterministic
    True
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...], rngs: nnx.Rngs):
        self.network = nnx.bridge.ToNNX(model, rngs=rngs)
        self.network.lazy_init(jnp.zeros((1, *image_shape)), train=True)
        self.deterministic = False

    def __call__(self, images: Num[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Return the logits `[N, num_classes]` of images `[N, H, W, C]`."""
        if self.deterministic:
            return self.network(images, train=False, mutable=False)
        return self.network(images, train=True, mutable=["batch_stats"])


def wrap(
    model: nn.Module,
    *,
    image_shape: tuple[int, ...] | None = None,
    variables: Any = None,
    rngs: nnx.Rngs | int = 0,
) -> Wrapped:
    """Return a Linen model as an NNX module in training mode.

    Args:
      model: a model from `jaxcnn.create_model`, or any Linen module that is called as `model(images, train=...)`.
      image_shape: shape `(H, W, C)` of the images. Default: the model's `image_shape`.
      variables: `{"params": ..., "batch_stats": ...}` of a trained model. Default: newly initialized variables.
      rngs: a seed, or streams of random keys. The stream "params" is used once, to initialize the variables. The stream
        "dropout" is used at each call in training mode.

    Raises:
      UsageError: if `image_shape` is missing and the model has no attribute `image_shape`, or if `variables` do not fit
        the model.

    >>> from jaxcnn import create_model
    >>> model = wrap(create_model("lenet5"), rngs=0)
    >>> model.eval()
    >>> model(jnp.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """
    image_shape = image_shape or getattr(model, "image_shape", None)
    if image_shape is None:
        raise UsageError(f"{type(model).__name__} has no attribute image_shape. Pass image_shape=(H, W, C).")
    if isinstance(rngs, int):
        rngs = nnx.Rngs(params=rngs, dropout=rngs + 1)
    wrapped = Wrapped(model, image_shape, rngs)
    if variables is not None:
        _set_variables(wrapped.network, variables)
    return wrapped


def _set_variables(network: nnx.Module, variables: Any) -> None:
    """Replace the variables of a wrapped network. NNX stores the variables of all collections in one tree."""
    given: dict[Any, Any] = {path[1:]: value for path, value in flatten_dict(variables).items()}
    own: dict[Any, Any] = {
        path: variable for path, variable in nnx.to_flat_state(nnx.state(network)) if path[0] != "to_nnx__rngs"
    }
    wrong = given.keys() ^ own.keys() | {
        path for path in given.keys() & own.keys() if given[path].shape != own[path].shape
    }
    if wrong:
        first = "/".join(map(str, min(wrong)))
        raise UsageError(
            f"{len(wrong)} variables do not fit the model, such as {first!r}. Pass variables of the model."
        )
    nnx.update(network, nnx.from_flat_state([(path, own[path].replace(given[path])) for path in own]))
