"""Optimizers, by name."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxcnn.errors import unknown_name
from jaxcnn.train.config import OptimizerConfig

# Each turns gradients (with the decay of kernels added, where it is not decoupled) into a direction of length 1
# learning rate. The learning rate itself follows behind, so that it is the same for all.
DIRECTIONS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "sgd": lambda config: optax.identity(),
    "momentum": lambda config: optax.trace(config.momentum),
    "nesterov": lambda config: optax.trace(config.momentum, nesterov=True),
    "adam": lambda config: optax.scale_by_adam(),
    "adamw": lambda config: optax.scale_by_adam(),
}

# Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017: the decay by-passes the moments.
DECOUPLED = ("adamw",)


def is_kernel(params: Any) -> Any:
    """For each parameter, whether it is a kernel: biases and normalisation have one axis and are not decayed."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of this name, with its weight decay and with the learning rate of the schedule.

    Raises:
      UsageError: an unknown name; the nearest one is named.
    """
    if config.name not in DIRECTIONS:
        raise unknown_name("optimizer", config.name, DIRECTIONS)
    direction = DIRECTIONS[config.name](config)
    decay = optax.add_decayed_weights(config.weight_decay, mask=is_kernel) if config.weight_decay else optax.identity()
    parts = [direction, decay] if config.name in DECOUPLED else [decay, direction]
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
