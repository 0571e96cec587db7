"""Registered optimizers. Each optimizer accepts the keyword arguments of its Optax function."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxcnn.errors import UsageError
from jaxcnn.train.config import OptimizerConfig
from jaxcnn.train.parameter_paths import check_pattern, first_matching, matching, parse_numbers
from jaxcnn.train.registry import Registry, check_keywords, keywords_of

Transformation = optax.GradientTransformation

# Keyword arguments of Optax functions that are not accepted as options: `OptimizerConfig` has fields for them (weight
# decay and its masks), or their values are functions.
_NOT_KEYWORDS = (
    "learning_rate",
    "weight_decay",
    "mask",
    "weight_decay_mask",
    "trust_ratio_mask",
    "weight_dimension_numbers",
)


@dataclass(frozen=True)
class Optimizer:
    """An entry of `OPTIMIZERS`.

    Attributes:
      optax: the Optax function whose keyword arguments the optimizer accepts.
      direction: function `(decay, **keywords) -> transformation` that returns the Optax gradient transformation from
        gradients to updates, without the learning rate. `decay` is a gradient transformation that adds weight decay,
        either before the direction is computed (L2 penalty) or after it (decoupled). The optimizer also accepts the
        keyword-only arguments of `direction`.
      defaults: keyword arguments whose default differs from the default of the Optax function.
      renamed: dict from a keyword argument of `optax` to the name under which the optimizer accepts it.
    """

    optax: Callable[..., Any]
    direction: Callable[..., Transformation]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def keywords(self) -> dict[str, inspect.Parameter]:
        """Return the keyword arguments that the optimizer accepts, as a dict from names to parameters."""
        own = {name: p for name, p in keywords_of(self.direction).items() if p.kind is p.KEYWORD_ONLY}
        parameters = own | {self.renamed.get(name, name): p for name, p in keywords_of(self.optax).items()}
        return {name: parameter for name, parameter in parameters.items() if name not in _NOT_KEYWORDS}


def is_kernel(params: Any) -> Any:
    """Return a pytree of booleans that are True for kernels: parameters with at least two axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def trust_ratio(**keywords: Any) -> Transformation:
    """Return a gradient transformation that scales the update of each kernel by the kernel's norm (trust ratio).

    The updates of biases and normalization parameters do not change.
    """
    return optax.masked(optax.scale_by_trust_ratio(**keywords), is_kernel)


def sgd(
    decay: Transformation, /, momentum: float | None = None, nesterov: bool = False, accumulator_dtype: Any = None
) -> Transformation:
    """Return stochastic gradient descent with momentum, or without momentum if `momentum` is None."""
    if momentum is None:
        return decay
    return optax.chain(decay, optax.trace(momentum, nesterov, accumulator_dtype))


def rmsprop(
    decay: Transformation,
    /,
    *,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    **rms: Any,
) -> Transformation:
    """Return RMSProp. In contrast to Optax, momentum is applied before the learning rate, as in all optimizers here."""
    scale = optax.scale_by_stddev(**rms) if centered else optax.scale_by_rms(**rms)
    return optax.chain(decay, scale) if momentum is None else optax.chain(decay, scale, optax.trace(momentum, nesterov))


def adagrad(decay: Transformation, /, **rss: Any) -> Transformation:
    """Return Adagrad."""
    return optax.chain(decay, optax.scale_by_rss(**rss))


def adam(decay: Transformation, /, **moments: Any) -> Transformation:
    """Return Adam, with weight decay as an L2 penalty."""
    return optax.chain(decay, optax.scale_by_adam(**moments))


def adamw(decay: Transformation, /, **moments: Any) -> Transformation:
    """Return AdamW (Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2017)."""
    return optax.chain(optax.scale_by_adam(**moments), decay)


def lars(
    decay: Transformation,
    /,
    *,
    momentum: float,
    nesterov: bool = False,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
) -> Transformation:
    """Return LARS (You, Gitman and Ginsburg, *Large Batch Training of Convolutional Networks*, 2017)."""
    ratio = trust_ratio(trust_coefficient=trust_coefficient, eps=eps)
    return optax.chain(decay, ratio, optax.trace(momentum, nesterov))


def lamb(decay: Transformation, /, **moments: Any) -> Transformation:
    """Return LAMB (You et al., *Large Batch Optimization for Deep Learning*, 2019)."""
    return optax.chain(optax.scale_by_adam(**moments), decay, trust_ratio())


def lion(decay: Transformation, /, **moments: Any) -> Transformation:
    """Return Lion (Chen et al., *Symbolic Discovery of Optimization Algorithms*, 2023)."""
    return optax.chain(optax.scale_by_lion(**moments), decay)


def muon(
    decay: Transformation,
    /,
    *,
    momentum: float,
    nesterov: bool = True,
    other_momentum: float | None = None,
    exclude: str = "",
    **newton_schulz: Any,
) -> Transformation:
    """Return Muon (Jordan, 2024), which updates each kernel with its orthogonalized momentum.

    Orthogonalization sets all singular values to about 1. A kernel `[kH, kW, C_in, C_out]` is treated as a matrix with
    `kH kW C_in` inputs and `C_out` outputs. Biases, normalization parameters and kernels whose path matches `exclude`,
    such as "head", are updated with (Nesterov) momentum, with the coefficient `other_momentum`. If `other_momentum` is
    None, the coefficient is `momentum`.
    """
    if exclude:
        check_pattern("exclude of optimizer muon", exclude)

    def widen(update: Any, _: Any) -> Any:
        """Scale up the update of a matrix with more outputs than inputs, as in the code of Muon's author."""
        return update * max(1.0, update.shape[-1] / math.prod(update.shape[:-1])) ** 0.5

    def as_matrices(params: Any) -> Any:
        return jax.tree.map(lambda p: MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params)

    kernels = optax.chain(
        scale_by_muon(beta=momentum, nesterov=nesterov, weight_dimension_numbers=as_matrices, **newton_schulz),
        optax.stateless_with_tree_map(widen),
    )

    def is_matrix(params: Any) -> Any:
        excluded = matching(exclude or "(?!)", params)
        return jax.tree.map(lambda kernel, out: kernel and not out, is_kernel(params), excluded)

    others = optax.trace(momentum if other_momentum is None else other_momentum, nesterov)
    directions = optax.partition({True: kernels, False: others}, is_matrix)
    return optax.chain(directions, decay)


MOMENTUM = {"momentum": 0.9}

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    {
        "sgd": Optimizer(optax.sgd, sgd),
        "momentum": Optimizer(optax.sgd, sgd, MOMENTUM),
        "nesterov": Optimizer(optax.sgd, sgd, {**MOMENTUM, "nesterov": True}),
        "rmsprop": Optimizer(optax.rmsprop, rmsprop),
        "adagrad": Optimizer(optax.adagrad, adagrad),
        "adam": Optimizer(optax.adam, adam),
        "adamw": Optimizer(optax.adamw, adamw),
        "lars": Optimizer(optax.lars, lars, MOMENTUM),
        "lamb": Optimizer(optax.lamb, lamb, {"eps": 1e-6}),
        "lion": Optimizer(optax.lion, lion),
        # `scale_by_muon` is the part of `optax.contrib.muon` for kernels. Its other part, Adam, is not used.
        "muon": Optimizer(scale_by_muon, muon, MOMENTUM, renamed={"beta": "momentum"}),
    },
)


def resolve(config: OptimizerConfig) -> OptimizerConfig:
    """Check the keyword arguments of a registered optimizer, and fill in its default momentum.

    Raises:
      UsageError: if the name of the optimizer or of a keyword argument is unknown, if a value has a wrong type, or if a
        keyword argument has no effect. For an unknown name, the error message suggests the closest valid name.
    """
    optimizer = OPTIMIZERS.find(config.name)
    given = dict(config.options)
    if config.momentum is not None:
        given["momentum"] = config.momentum
    check_keywords(f"optimizer {config.name}", given, optimizer.keywords())
    momentum = given.get("momentum", optimizer.defaults.get("momentum"))
    if momentum is None and "momentum" in optimizer.keywords():
        for name in ("nesterov", "accumulator_dtype"):
            if given.get(name):
                raise UsageError(
                    f"{name} of optimizer {config.name} has no effect without momentum: {given[name]!r}. "
                    "Set a momentum, such as 0.9."
                )
    return dataclasses.replace(config, momentum=momentum)


def scale_by_path(scales: Sequence[str]) -> Transformation:
    """Return a gradient transformation that multiplies the updates of selected parameters by factors.

    Args:
      scales: texts "EXPRESSION=FACTOR". For each parameter, the first expression that matches its path is used.
    """
    factors = parse_numbers("optimizer.learning_rate_scales", scales)

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map(lambda f, u: u if f == 1.0 else f * u, first_matching(factors, updates, 1.0), updates)

    return optax.stateless(scale)


def decayed(config: OptimizerConfig) -> Transformation:
    """Return a gradient transformation that adds weight decay to the updates of kernels, or of all parameters.

    `weight_decay_scales` multiplies the weight decay of selected parameters. `learning_rate_scales` multiplies the
    whole update of selected parameters, including the weight decay.
    """
    if not isinstance(config.weight_decay, jax.Array) and config.weight_decay <= 0:
        return optax.identity()
    mask = None if config.decay_all else is_kernel
    if not config.weight_decay_scales:
        return optax.add_decayed_weights(config.weight_decay, mask=mask)
    factors = parse_numbers("optimizer.weight_decay_scales", config.weight_decay_scales)

    def add(updates: Any, params: Any) -> Any:
        rates = first_matching(factors, updates, 1.0)
        return jax.tree.map(lambda f, u, p: u + config.weight_decay * f * p, rates, updates, params)

    added = optax.stateless(add)
    return added if mask is None else optax.masked(added, mask)


def with_fixed_norm(pattern: str) -> Transformation:
    """Return a gradient transformation that scales selected kernels `[..., C_out]` to the norm `sqrt(C_out)`.

    The scaling is added to the update of the kernel. The step therefore starts from a kernel with this norm, and only
    the learning rate determines by which angle a step turns the kernel (Jordan, `airbench94_muon.py`, 2024).
    """

    def add(updates: Any, params: Any) -> Any:
        def of_kernel(selected: bool, update: Any, kernel: Any) -> Any:
            if not selected or kernel.ndim < 2:
                return update
            norm = jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(kernel))), jnp.finfo(kernel.dtype).tiny)
            return update + (kernel.shape[-1] ** 0.5 / norm - 1.0) * kernel

        return jax.tree.map(of_kernel, matching(pattern, updates), updates, params)

    return optax.stateless(add)


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> Transformation:
    """Return the optimizer that a configuration names, as an Optax gradient transformation.

    The transformation clips gradients, adds weight decay, computes the update direction, and multiplies the update by
    the learning rate.

    Args:
      config: name and options of the optimizer. `config.weight_decay` may be a scalar array, which JAX may trace. An
        array is treated as a positive weight decay, so that the tree structure of the optimizer's state does not depend
        on its value. `config.learning_rate` is not used, since `schedule` returns the learning rate.
      schedule: learning rate as a function of the step; see `make_schedule`.

    Raises:
      UsageError: if the name of the optimizer or of a keyword argument is unknown, or if a value is not valid. For an
        unknown name, the error message suggests the closest valid name.

    >>> optimizer = make_optimizer(OptimizerConfig("sgd", weight_decay=0.0), optax.constant_schedule(0.1))
    >>> params = {"kernel": jnp.array([1.0, 2.0])}
    >>> updates, _ = optimizer.update({"kernel": jnp.array([1.0, -1.0])}, optimizer.init(params), params)
    >>> print(updates["kernel"].round(3))
    [-0.1  0.1]
    """
    config = resolve(config)
    optimizer = OPTIMIZERS[config.name]
    keywords = {**optimizer.defaults, **dict(config.options)}
    if config.momentum is not None:
        keywords["momentum"] = config.momentum
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    rate = optax.scale_by_learning_rate(schedule)
    if config.learning_rate_scales:
        rate = optax.chain(rate, scale_by_path(config.learning_rate_scales))
    if config.fixed_norm is not None:
        rate = optax.chain(rate, with_fixed_norm(config.fixed_norm))
    made = optax.chain(clip, optimizer.direction(decayed(config), **keywords), rate)
    _try(made, config.name)
    return made


def _try(optimizer: Transformation, name: str) -> None:
    """Trace a step of the optimizer, since Optax checks some keyword arguments only in a step.

    Raises:
      UsageError: if Optax raises an error of any type.
    """
    params = {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32), "bias": jax.ShapeDtypeStruct((2,), jnp.float32)}
    try:
        jax.eval_shape(lambda params: optimizer.update(params, optimizer.init(params), params), params)
    except Exception as error:  # Optax raises errors of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(f"optimizer {name} cannot be used: {reason}. Check the keywords of the optimizer.") from error
