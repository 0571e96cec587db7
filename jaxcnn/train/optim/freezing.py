"""Freeze a part of a network: train only the rest.

A regular expression on the paths of parameters and batch statistics selects the frozen part (`parameter_paths`).
`Freezing` takes the gradient with respect to the other parameters only; the training step leaves parameters without a
gradient unchanged.
"""

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.layers.loops import unrolled
from jaxcnn.train.gradient import BatchLoss, Gradient, fill_in, leave_out
from jaxcnn.train.optim.adapters import adapt
from jaxcnn.train.parameter_paths import check_matches, matches, matching


@dataclass(frozen=True)
class Freezing:
    """The frozen part of a network.

    Attributes:
      pattern: a regular expression, anchored at the start of the paths of frozen parameters and statistics.
    """

    pattern: str

    def check(self, params: Any) -> None:
        """Raise `UsageError` if the pattern matches none or all of the parameters."""
        check_matches("freeze", self.pattern, params)
        if all(jax.tree.leaves(matching(self.pattern, params))):
            raise UsageError(f"freeze {self.pattern!r} leaves nothing to train: it matches all of {', '.join(params)}")

    def note(self, params: Any) -> str:
        """Return one line that says how much of the network is frozen."""
        sizes = [x.size for x in jax.tree.leaves(params)]
        frozen = sum(map(operator.mul, sizes, jax.tree.leaves(matching(self.pattern, params))))
        return f"frozen: {frozen:,} of {sum(sizes):,} parameters"

    def gradient(self, gradient: Gradient) -> Gradient:
        """Return the gradient with respect to the trainable parameters; frozen ones are left out.

        The backward pass ends at the lowest trainable layer. Frozen batch normalization (`jaxcnn.layers.BatchNorm`)
        uses its running statistics in training too, like timm's `freeze` and torchvision's detection models, so that
        a frozen part computes the same in training and in testing. Other kinds of batch normalization use the
        statistics of the batch. Frozen running statistics are left out too, so that they do not change. Models are
        traced without loops over blocks (`scan_blocks`), since the pattern is matched with the path of each module.
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
        """Return the optimizer with a state for the trainable parameters only.

        It takes gradients and parameters in which the frozen ones are left out.
        """
        # Only `init` has something to select. `partition` is used since checkpoints have the tree of its state.
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
