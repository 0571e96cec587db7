"""The nested parts of a configuration: optimizer, schedule, lookahead and verification."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from jaxcnn.train.config import checks

Keywords = tuple[tuple[str, Any], ...]
"""Type of keyword arguments: pairs (name, value), sorted by name, which are immutable and hashable."""


@dataclass(frozen=True, init=False)
class OptimizerConfig:
    """Optimizer: how gradients change the parameters. You can also set each keyword argument of the Optax function:
    --optimizer.b2 0.95 for adam, --optimizer.nesterov True for momentum."""

    name: str = "momentum"
    """Name of the optimizer: sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw, lars, lamb, lion or muon."""
    learning_rate: Annotated[float, checks.POSITIVE, checks.FLOAT32] = 0.05
    """Peak learning rate of the schedule."""
    momentum: Annotated[float | None, checks.FRACTION_BELOW_ONE] = None
    """Momentum coefficient (default: 0.9 for momentum, nesterov, lars and muon)."""
    weight_decay: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e6)] = 0.001
    """Weight decay of kernels. Biases and normalization parameters have no weight decay (see decay_all)."""
    decay_all: bool = False
    """Apply weight decay to biases and normalization parameters too."""
    clip_norm: Annotated[float | None, checks.POSITIVE, checks.at_most(1e30)] = None
    """Clip the gradient to this global norm, over all parameters together."""
    learning_rate_scales: Annotated[tuple[str, ...], checks.scales("optimizer.learning_rate_scales")] = ()
    """Factors on the learning rate of selected parameters: EXPRESSION=FACTOR, such as "stem|stage1=0.1" "head=10".
    Regular expressions, anchored at the start of the parameter's path; the first match wins."""
    weight_decay_scales: Annotated[tuple[str, ...], checks.scales("optimizer.weight_decay_scales")] = ()
    """Factors on the weight decay of selected parameters: EXPRESSION=FACTOR, such as "head=0.1". A factor in
    learning_rate_scales also multiplies the weight decay. To undo this, give the inverse factor in
    weight_decay_scales."""
    fixed_norm: Annotated[str | None, checks.pattern] = None
    """Kernels to scale to the norm sqrt(outputs) at the beginning of each step: a regular expression, anchored at the
    start of the parameter's path, such as "block"."""
    options: Annotated[Keywords, checks.json_values] = ()
    """Other keyword arguments of the optimizer's Optax function, as pairs sorted by name. In Python, give keyword
    arguments to `OptimizerConfig`, which fills this field."""

    def __init__(
        self,
        name: str = name,
        learning_rate: float = learning_rate,
        momentum: float | None = momentum,
        weight_decay: float = weight_decay,
        decay_all: bool = decay_all,
        clip_norm: float | None = clip_norm,
        learning_rate_scales: tuple[str, ...] = learning_rate_scales,
        weight_decay_scales: tuple[str, ...] = weight_decay_scales,
        fixed_norm: str | None = fixed_norm,
        options: Keywords = options,
        **keywords: Any,
    ):
        """Set the fields. `keywords` are keyword arguments of the optimizer's Optax function.

        The field `options` stores `keywords`. `jaxcnn.train.optim.optimizers` compares the names in `options` with the
        signature of the Optax function.

        >>> config = OptimizerConfig("adam", 1e-3, b2=0.95)
        >>> dataclasses.replace(config, eps=1e-6).options
        (('b2', 0.95), ('eps', 1e-06))
        """
        given = {**dict(options), **keywords}
        values = {
            "name": name,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "decay_all": decay_all,
            "clip_norm": clip_norm,
            "learning_rate_scales": learning_rate_scales,
            "weight_decay_scales": weight_decay_scales,
            "fixed_norm": fixed_norm,
            "options": tuple((keyword, given[keyword]) for keyword in sorted(given)),
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)  # the dataclass is frozen
        make_immutable(self)


def make_immutable(part: Any) -> None:
    """Convert the fields of a dataclass in place: NumPy scalars to numbers, paths to strings, lists to tuples."""
    for field in dataclasses.fields(part):
        object.__setattr__(part, field.name, immutable(getattr(part, field.name)))


def immutable(value: Any) -> Any:
    """Convert lists to tuples, NumPy scalars to Python numbers and paths to strings, also in nested lists."""
    if isinstance(value, list | tuple):
        return tuple(map(immutable, value))
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate schedule: how the learning rate changes over the run."""

    name: str = "cosine"
    """Name of the schedule: constant, step, cosine, linear, polynomial, onecycle or triangle."""
    warmup_epochs: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e9)] = 0.0
    """Number of epochs in which the learning rate rises linearly from 0 to its peak."""
    milestones: Annotated[tuple[float, ...], checks.MILESTONES] = (0.5, 0.75)
    """Fractions of the run after which the learning rate drops. Used only by the schedule step."""
    factor: Annotated[float, checks.FRACTION] = 0.1
    """Factor on the learning rate at each milestone. Used only by the schedule step."""
    power: Annotated[float, checks.POSITIVE, checks.at_most(1000)] = 2.0
    """Exponent of the learning rate's decay. Used only by the schedule polynomial."""
    end_factor: Annotated[float, checks.FRACTION] = 0.0
    """Final learning rate as a fraction of the peak. Used only by the schedules cosine, linear, polynomial and
    triangle."""
    start_factor: Annotated[float, checks.FRACTION] = 0.2
    """Initial learning rate as a fraction of the peak. Used only by the schedule triangle."""
    peak_at: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.23
    """Fraction of the run after which the learning rate is highest. Used only by the schedule triangle."""

    def __post_init__(self):
        make_immutable(self)


@dataclass(frozen=True)
class LookaheadConfig:
    """Lookahead: every few steps, move a slow copy of the parameters toward them, and continue from the copy."""

    period: Annotated[int, checks.NOT_NEGATIVE, checks.STEPS] = 0
    """Number of steps between updates of the slow copy; 0 turns lookahead off. An update moves the slow copy toward the
    parameters, and then sets the parameters to the slow copy. Evaluations use the slow copy."""
    decay: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.774
    """Final weight of the old slow copy when the slow copy is updated."""
    power: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1000)] = 3.0
    """Exponent with which the weight of the old slow copy grows from 0 to decay over the run. With 0, the weight is
    constant."""

    def __post_init__(self):
        make_immutable(self)


@dataclass(frozen=True)
class Verification:
    """Checks of the verification that runs every verify_every steps. Each check can be turned on alone."""

    replicas: bool = True
    """Compare hashes of the state between devices. All devices must have equal copies of the state."""
    replay: Literal["off", "last", "interval"] = "last"
    """Repeat steps, on other devices if there are several, and compare the state bit by bit. last repeats the steps
    of the latest dispatch. interval repeats all steps since the last verification, which doubles the training time."""
    bounds: Annotated[float, checks.NOT_NEGATIVE] = 0.0
    """Repeat all steps since the last verification if a loss, a gradient norm or an update norm exceeds this factor
    times its running median; 0 turns this check off."""

    def __post_init__(self):
        make_immutable(self)
