"""The nested parts of a configuration: optimizer, schedule, lookahead and verification."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from jaxcnn.train.config import checks

Keywords = tuple[tuple[str, Any], ...]
"""Keyword arguments as pairs sorted by name: immutable and hashable."""


@dataclass(frozen=True, init=False)
class OptimizerConfig:
    """How gradients change the parameters. Every keyword of the Optax function is accepted too: --optimizer.b2 0.95 for
    adam, --optimizer.nesterov True for momentum."""

    name: str = "momentum"
    """sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw, lars, lamb, lion or muon."""
    learning_rate: Annotated[float, checks.POSITIVE, checks.FLOAT32] = 0.05
    """Peak learning rate of the schedule."""
    momentum: Annotated[float | None, checks.FRACTION_BELOW_ONE] = None
    """Momentum coefficient (default: 0.9 for momentum, nesterov, lars and muon)."""
    weight_decay: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e6)] = 0.001
    """Weight decay of kernels. Biases and normalization parameters do not decay."""
    decay_all: bool = False
    """Apply weight decay to biases and normalization parameters too."""
    clip_norm: Annotated[float | None, checks.POSITIVE, checks.at_most(1e30)] = None
    """Clip the gradient to this global norm, over all parameters together."""
    learning_rate_scales: Annotated[tuple[str, ...], checks.scales("optimizer.learning_rate_scales")] = ()
    """Factors on the learning rate of selected parameters: EXPRESSION=FACTOR, such as "stem|stage1=0.1" "head=10".
    Regular expressions, anchored at the start of the path; the first match wins."""
    weight_decay_scales: Annotated[tuple[str, ...], checks.scales("optimizer.weight_decay_scales")] = ()
    """Factors on the weight decay of selected parameters, in the same form. A factor on the learning rate also
    multiplies the decay. To undo this, set the inverse factor here."""
    fixed_norm: Annotated[str | None, checks.pattern] = None
    """Kernels to scale to the norm sqrt(outputs) at the beginning of each step: a regular expression, anchored at the
    start of the path, such as "block"."""
    options: Annotated[Keywords, checks.json_values] = ()
    """Other keywords of the optimizer's Optax function, as pairs sorted by name. Pass them as keywords."""

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
        """Take the fields, and any keyword of the optimizer's Optax function.

        Keywords are stored in `options`. `optim.optimizers` checks them against the function's signature.

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
    """Replace the values of a new dataclass: NumPy scalars and paths become JSON values, and lists become tuples."""
    for field in dataclasses.fields(part):
        object.__setattr__(part, field.name, immutable(getattr(part, field.name)))


def immutable(value: Any) -> Any:
    """Return lists as tuples, NumPy scalars as Python numbers and paths as strings, at any depth."""
    if isinstance(value, list | tuple):
        return tuple(map(immutable, value))
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes over the run."""

    name: str = "cosine"
    """constant, step, cosine, linear, polynomial, onecycle or triangle."""
    warmup_epochs: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e9)] = 0.0
    """Epochs of linear warm-up from 0."""
    milestones: Annotated[tuple[float, ...], checks.MILESTONES] = (0.5, 0.75)
    """Fractions of the run after which the learning rate drops (step)."""
    factor: Annotated[float, checks.FRACTION] = 0.1
    """Factor on the learning rate at each milestone (step)."""
    power: Annotated[float, checks.POSITIVE, checks.at_most(1000)] = 2.0
    """Exponent of the decay (polynomial)."""
    end_factor: Annotated[float, checks.FRACTION] = 0.0
    """Final learning rate as a fraction of the peak (cosine, linear, polynomial and triangle)."""
    start_factor: Annotated[float, checks.FRACTION] = 0.2
    """First learning rate as a fraction of the peak (triangle)."""
    peak_at: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.23
    """Fraction of the run after which the learning rate is highest (triangle)."""

    def __post_init__(self):
        make_immutable(self)


@dataclass(frozen=True)
class LookaheadConfig:
    """Every few steps, move a slow copy toward the network, and continue the training from the copy."""

    period: Annotated[int, checks.NOT_NEGATIVE, checks.STEPS] = 0
    """Steps between updates of the slow copy; 0 is off. An update moves the slow copy toward the network, then sets the
    network to the copy. Evaluations use the copy."""
    decay: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.774
    """Fraction of the slow copy that an update keeps, at the end of the run."""
    power: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1000)] = 3.0
    """Exponent with which this fraction grows from 0 over the run; 0 is a constant fraction."""

    def __post_init__(self):
        make_immutable(self)


@dataclass(frozen=True)
class Verification:
    """How steps are verified every `verify_every` steps. Each check works alone."""

    replicas: bool = True
    """Compare hashes of the state between the devices, whose copies must be equal."""
    replay: Literal["off", "last", "interval"] = "last"
    """Repeat steps, on other devices where there are several, and compare all bits: last repeats the last call;
    interval repeats all steps since the last verification, which takes as long as the steps themselves."""
    bounds: Annotated[float, checks.NOT_NEGATIVE] = 0.0
    """Repeat all steps since the last verification if a loss, or the norm of a gradient or of an update, is more
    than this factor times the running median; 0 is off."""

    def __post_init__(self):
        make_immutable(self)
