"""Freeze a part of a network, from the start or after some epochs, and train only the rest of the network.

A regular expression selects the frozen part by the paths of parameters and batch statistics (`parameter_paths`).
`Freezing` computes the gradient only for the other parameters. The training step does not change parameters without a
gradient.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.layers.loops import unrolled
from jaxcnn.train.config import Config
from jaxcnn.train.gradient import BatchLoss, Gradient, fill_in, leave_out
from jaxcnn.train.optim.adapters import adapt
from jaxcnn.train.parameter_paths import check_matches, first_matching, matches, matching, parse_numbers


def check_expressions(config: Config, params: Any) -> None:
    """Raise `UsageError` if an expression of the configuration matches no parameter, or if `freeze` matches all."""
    if config.freeze is not None:
        Freezing(config.freeze).check(params)
    optimizer = config.optimizer
    for field, values in (
        ("optimizer.learning_rate_scales", optimizer.learning_rate_scales),
        ("optimizer.weight_decay_scales", optimizer.weight_decay_scales),
        ("freeze_after", config.freeze_after),
    ):
        for pattern, _ in parse_numbers(field, values):
            check_matches(field, pattern, params)
    if optimizer.fixed_norm is not None:
        check_matches("optimizer.fixed_norm", optimizer.fixed_norm, params)


def freeze_after(
    optimizer: optax.GradientTransformation, epochs: Sequence[str], steps_per_epoch: float
) -> optax.GradientTransformation:
    """Return an optimizer that stops changing selected parameters after some epochs (progressive freezing).

    Source: Brock et al., *FreezeOut: Accelerate Training by Progressively Freezing Layers*, 2017. In contrast to the
    paper, the gradients of frozen parameters are still computed, so that all steps use one compiled program. Jordan
    (*94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024) freezes the bias of a whitening layer in this way.

    Args:
      optimizer: the optimizer that computes the updates of all parameters.
      epochs: texts "EXPRESSION=EPOCHS". For each parameter, the first expression that matches its path is used.
      steps_per_epoch: number of steps in an epoch, which may be a fraction.
    """
    if not epochs:
        return optimizer
    parsed = [(pattern, number * steps_per_epoch) for pattern, number in parse_numbers("freeze_after", epochs)]

    def mask(last: Any, updates: Any) -> Any:
        return jax.tree.map(lambda number: number == last, first_matching(parsed, updates, math.inf))

    stops = [
        optax.masked(optax.scale_by_schedule(partial(_before, last)), partial(mask, last))
        for last in dict.fromkeys(last for _, last in parsed)
    ]
    return optax.chain(optimizer, *stops)


def _before(last: float, count: Any) -> jax.Array:
    """Return 1.0 if the step `count`, counted from 0, is before step `last`, else 0.0."""
    return jnp.asarray(count < round(last), jnp.float32)


@dataclass(frozen=True)
class Freezing:
    """The frozen part of a network.

    Attributes:
      pattern: regular expression that matches the paths of frozen parameters and batch statistics, anchored at the
        start of the path.
    """

    pattern: str

    def check(self, params: Any) -> None:
        """Raise `UsageError` if the pattern matches no parameter, or if it matches all parameters."""
        check_matches("freeze", self.pattern, params)
        if all(jax.tree.leaves(matching(self.pattern, params))):
            raise UsageError(
                f"freeze {self.pattern!r} leaves nothing to train: the expression matches all of {', '.join(params)}"
            )

    def note(self, params: Any) -> str:
        """Return one line that says how much of the network is frozen."""
        sizes = [x.size for x in jax.tree.leaves(params)]
        frozen = sum(map(operator.mul, sizes, jax.tree.leaves(matching(self.pattern, params))))
        return f"frozen: {frozen:,} of {sum(sizes):,} parameters"

    def gradient(self, gradient: Gradient) -> Gradient:
        """Return a gradient function that computes only the gradients of trainable parameters.

        The backward pass ends at the first trainable layer. Frozen batch normalization (`jaxcnn.layers.BatchNorm`) uses
        its running statistics in training too, like timm's `freeze` and torchvision's detection models. A frozen part
        therefore computes the same values in training and in evaluation. Batch normalization modules of other types use
        the statistics of the batch. Frozen running statistics do not change. Models are traced without loops over
        blocks (`scan_blocks`), since the pattern is compared with the path of each module.
        """

        def of_trainable(loss: BatchLoss, params: Any) -> tuple[Any, Any]:
            def function(trainable: Any, *rest: Any) -> tuple[jax.Array, Any]:
                with nn.intercept_methods(self._use_running_statistics), unrolled():
                    return loss.function(fill_in(trainable, params), *rest)

            trainable = leave_out(params, matching(self.pattern, params))
            gradients, (batch_stats, sums) = gradient(dataclasses.replace(loss, function=function), trainable)
            return gradients, (leave_out(batch_stats, matching(self.pattern, batch_stats)), sums)

        return of_trainable

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return an optimizer whose state covers only the trainable parameters.

        The `update` function of the returned optimizer expects holes, `optax.MaskedNode()`, in place of frozen
        parameters and their gradients.
        """
        # Only `init` selects parameters. `partition` is kept since checkpoints have the tree structure of its state.
        labels = {False: adapt(optimizer), True: optax.set_to_zero()}
        return optax.partition(labels, lambda params: matching(self.pattern, params))  # type: ignore[return-value]

    def _use_running_statistics(
        self, method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        is_batch_norm = isinstance(module, BatchNorm) and context.method_name == "__call__"
        if is_batch_norm and matches(self.pattern, "/".join((*module.path, "mean"))):
            return method(*args[:1], **{**kwargs, "train": False})
        return method(*args, **kwargs)
