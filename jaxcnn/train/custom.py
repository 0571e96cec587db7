"""Parts of a run that are the user's own Python objects in place of names: model, loss, augmentation, optimizer.

The run's configuration records each as "custom:" and its description, so that a run is continued only with parts of
the same description.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np
import optax

from jaxcnn.errors import UsageError
from jaxcnn.train.config import Config

PREFIX = "custom:"


@dataclasses.dataclass(frozen=True)
class CustomParts:
    """What takes the place of a name in the configuration; None where the name stands.

    Attributes:
      model: a Linen module, `model(x, train=...) -> logits [N, classes]`.
      loss: `(logits [N, classes], labels [N]) -> [N]`, in training and in testing.
      augment: `(key, image [H, W, C]) -> [H, W, C]`, on the device, in training.
      optimizer: an optax transformation, or a function that makes one of the schedule.
    """

    model: nn.Module | None = None
    loss: Callable[..., Any] | None = None
    augment: Callable[..., Any] | None = None
    optimizer: optax.GradientTransformation | Callable[[optax.Schedule], optax.GradientTransformation] | None = None

    def recorded(self, config: Config) -> Config:
        """The configuration with the description of each custom part in place of a name."""
        changed: dict[str, Any] = {}
        if self.model is not None:
            changed["model"] = PREFIX + describe(self.model)
        if self.loss is not None:
            changed |= {"loss": PREFIX + describe(self.loss), "label_smoothing": 0.0}
        if self.augment is not None:
            changed["augment"] = (PREFIX + describe(self.augment),)
        if self.optimizer is not None:
            changed["optimizer"] = dataclasses.replace(config.optimizer, name=PREFIX + describe(self.optimizer))
        return dataclasses.replace(config, **changed)


def describe(part: Any) -> str:
    """The qualified name of a function or class, with the arguments of a `partial` and the fields of a module.

    Two functions of one name, such as two lambdas in one function, cannot be told apart.

    >>> describe(nn.relu), describe(nn.Dense(10, use_bias=False))[:45]
    ('jax._src.nn.functions.relu', 'flax.linen.linear.Dense(features=10, use_bias')
    """
    if isinstance(part, optax.GradientTransformation):
        return describe(part.update)
    if isinstance(part, nn.Module):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}  # type: ignore[arg-type]
        return describe(type(part)) + _arguments((), {k: v for k, v in fields.items() if k not in ("parent", "name")})
    if isinstance(part, partial):
        return describe(part.func) + _arguments(part.args, part.keywords)
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{describe(key)}: {describe(value)}" for key, value in part.items()) + "}"
    if isinstance(part, list | tuple):
        return "(" + ", ".join(map(describe, part)) + ")"
    wrapped = getattr(part, "__wrapped__", part)
    if hasattr(wrapped, "__qualname__"):
        return f"{wrapped.__module__}.{wrapped.__qualname__}"
    if part is None or isinstance(part, str | int | float | bool | complex | np.dtype):
        return repr(part)
    return describe(type(part))


def _arguments(args: Any, keywords: Mapping[str, Any]) -> str:
    return "(" + ", ".join([*map(describe, args), *(f"{name}={describe(x)}" for name, x in keywords.items())]) + ")"


def check_given(kind: str, name: str) -> None:
    """Raises `UsageError` if `name` is the record of a custom part, which only a Python program can give."""
    if name.startswith(PREFIX):
        raise UsageError(
            f"the run's {kind} is {name.removeprefix(PREFIX)}, which stands in a Python program; "
            f"call jaxcnn.train from there with {kind}=..."
        )
