"""Optimizers, by name."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxcnn.errors import unknown_name
from jaxcnn.train.config import OptimizerConfig
from jaxcnn.train.optim.parameter_paths import matching, parse_scales


def is_kernel(params: Any) -> Any:
    """For each parameter, whether it is a kernel: biases and normalisation have one axis."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """Makes each kernel's direction `coefficient` times as long as the kernel; other parameters are left alone."""
    return optax.masked(optax.scale_by_trust_ratio(trust_coefficient=coefficient), is_kernel)


def orthogonalized(momentum: float) -> optax.GradientTransformation:
    """Muon (Jordan, 2024): the momentum of each kernel as the nearest matrix whose singular values are near 1.

    A kernel `[kH, kW, C_in, C_out]` is a matrix of `kH kW C_in` inputs and `C_out` outputs. Parameters that are no
    kernels take the direction of Nesterov's momentum.
    """

    def widen(update: Any, _: Any) -> Any:
        """A matrix with more outputs than inputs has its update made longer, as in the author's code."""
        return update * max(1.0, update.shape[-1] / math.prod(update.shape[:-1])) ** 0.5

    def as_matrices(params: Any) -> Any:
        return jax.tree.map(lambda p: MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params)

    muon = optax.chain(
        scale_by_muon(beta=momentum, weight_dimension_numbers=as_matrices),
        optax.stateless_with_tree_map(widen),
    )
    return optax.partition({True: muon, False: optax.trace(momentum, nesterov=True)}, is_kernel)


def scale_by_path(scales: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by the factor of the first expression that matches its path."""
    factors = parse_scales(scales)

    def scale(updates: Any, _: Any) -> Any:
        left = jax.tree.map(lambda _: True, updates)  # parameters that no expression has matched yet
        for pattern, factor in factors:
            now = jax.tree.map(lambda match, left: match and left, matching(pattern, updates), left)
            updates = jax.tree.map(lambda now, u, factor=factor: factor * u if now else u, now, updates)
            left = jax.tree.map(lambda now, left: left and not now, now, left)
        return updates

    return optax.stateless(scale)


Direction = Callable[[OptimizerConfig, optax.GradientTransformation], optax.GradientTransformation]

# Each turns gradients into a direction of length 1 learning rate, and says where the weight decay stands. Behind the
# direction (adamw, lamb, lion, muon) it is decoupled: Loshchilov and Hutter, Decoupled Weight Decay Regularization,
# 2017. The learning rate itself follows, so that it is the same for all.
OPTIMIZERS: dict[str, Direction] = {
    "sgd": lambda config, decay: decay,
    "momentum": lambda config, decay: optax.chain(decay, optax.trace(config.momentum)),
    "nesterov": lambda config, decay: optax.chain(decay, optax.trace(config.momentum, nesterov=True)),
    "rmsprop": lambda config, decay: optax.chain(decay, optax.scale_by_rms()),
    "adagrad": lambda config, decay: optax.chain(decay, optax.scale_by_rss()),
    "adam": lambda config, decay: optax.chain(decay, optax.scale_by_adam()),
    "adamw": lambda config, decay: optax.chain(optax.scale_by_adam(), decay),
    # You, Gitman, Ginsburg: Large Batch Training of Convolutional Networks, 2017.
    "lars": lambda config, decay: optax.chain(decay, trust_ratio(0.001), optax.trace(config.momentum)),
    # You et al.: Large Batch Optimization for Deep Learning, 2019.
    "lamb": lambda config, decay: optax.chain(optax.scale_by_adam(eps=1e-6), decay, trust_ratio(1.0)),
    # Chen et al.: Symbolic Discovery of Optimization Algorithms, 2023.
    "lion": lambda config, decay: optax.chain(optax.scale_by_lion(), decay),
    "muon": lambda config, decay: optax.chain(orthogonalized(config.momentum), decay),
}


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of this name: clipping, weight decay, its direction, and the learning rate of the schedule.

    Raises:
      UsageError: an unknown name; the nearest one is named.
    """
    if config.name not in OPTIMIZERS:
        raise unknown_name("optimizer", config.name, OPTIMIZERS)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    mask = None if config.decay_all else is_kernel
    decay = optax.add_decayed_weights(config.weight_decay, mask=mask) if config.weight_decay else optax.identity()
    rate = optax.scale_by_learning_rate(schedule)
    if config.learning_rate_scales:
        rate = optax.chain(rate, scale_by_path(config.learning_rate_scales))
    return optax.chain(clip, OPTIMIZERS[config.name](config, decay), rate)
