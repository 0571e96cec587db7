"""Parts of a network that stay as they are, to the last bit, while the rest is trained.

Which they are is an expression over the paths of parameters and of batch statistics (`parameter_paths`). Frozen batch
normalisation takes its running statistics in training too, as timm's `freeze` and torchvision's detection models
have it, so that a frozen part computes in training what it computes at test time. Dropout stays what it is.
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
from jaxcnn.train.optim.parameter_paths import check_matches, matches, matching
from jaxcnn.train.state import TrainState
from jaxcnn.train.step import Step


@dataclass(frozen=True)
class PartlyFrozen:
    """A model as the training step sees it: no gradient comes to its frozen parts, and nothing below them is computed.

    Batch normalisation of other kinds than ours still takes its batch's statistics; its running ones stay.
    """

    model: nn.Module
    pattern: str

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        params = jax.tree.map(
            lambda frozen, x: jax.lax.stop_gradient(x) if frozen else x,
            matching(self.pattern, variables["params"]),
            variables["params"],
        )
        with nn.intercept_methods(self._with_running_statistics):
            return self.model.apply({**variables, "params": params}, *args, **kwargs)

    def _with_running_statistics(
        self, method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__":
            frozen = matches(self.pattern, "/".join((*module.path, "mean")))
            kwargs = {**kwargs, "train": kwargs["train"] and not frozen}
        return method(*args, **kwargs)


def train_only_rest(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """The optimizer for what is not frozen: the rest neither decays, nor counts in a norm, nor takes memory."""
    return optax.partition({False: optimizer, True: optax.set_to_zero()}, lambda params: matching(pattern, params))  # type: ignore[return-value]


def keep_frozen(step: Step, pattern: str) -> Step:
    """The training step, after which frozen parameters, statistics and averages are bit for bit what they were.

    An update of 0 is not enough for that: it makes 0 of -0, and a mean over devices or over time may round.
    """

    def keep(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda frozen, x, y: x if frozen else y, matching(pattern, old), old, new)

    def kept(state: TrainState, batch: Any) -> Any:
        new, sums = step(state, batch)
        learned = {name: keep(getattr(state, name), getattr(new, name)) for name in ("params", "batch_stats")}
        ema = {name: keep(state.ema[name], new.ema[name]) for name in state.ema}
        return dataclasses.replace(new, **learned, ema=ema), sums

    return kept


def check_freeze(pattern: str, params: Any) -> None:
    """Raises `UsageError` if an expression freezes nothing or everything."""
    check_matches("freeze", pattern, params)
    if all(jax.tree.leaves(matching(pattern, params))):
        raise UsageError(f"freeze {pattern!r} leaves nothing to train: it matches all of {', '.join(params)}")


def note_of_frozen(pattern: str, params: Any) -> str:
    """How much of the network is frozen, in one line."""
    sizes = [x.size for x in jax.tree.leaves(params)]
    frozen = sum(map(operator.mul, sizes, jax.tree.leaves(matching(pattern, params))))
    return f"frozen: {frozen:,} of {sum(sizes):,} parameters"
