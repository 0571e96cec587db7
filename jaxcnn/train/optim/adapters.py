"""Use any transformation of Optax in the training step, whose state consists of plain arrays.

Three kinds of Optax's transformations need more than `update(gradients, state, params)`:

- Noise: the state contains a typed key (`noisy_sgd`, `add_noise`, `contrib.sophia`). `adapt` stores its raw data.
- Lookahead: parameters are a pair of fast and slow ones (`lookahead`). `adapt` stores the slow ones in the state.
- Extra arguments, such as the loss (`lbfgs`, `polyak_sgd`). `adapt` passes on what the training step offers.

Some train other parameters than they return in the end; see `evaluation_params`.
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from optax.contrib import (
    DifferentiallyPrivateAggregateState,
    HutchinsonState,
    SAMState,
    ScheduleFreeState,
    schedule_free_eval_params,
)

from jaxcnn._scoped import quiet_logger
from jaxcnn.train.gradient import fill_in, leave_out_as


@struct.dataclass
class StoredKey:
    """A typed key as an array.

    Attributes:
      data: raw key data, uint32.
      impl: name of the implementation of random numbers.
    """

    data: jax.Array
    impl: Any = struct.field(pytree_node=False)


@struct.dataclass
class SlowWeights:
    """The state of a lookahead optimizer, together with its slow parameters.

    Attributes:
      inner: state of the optimizer.
      slow: slow parameters. The fast ones are the parameters that are trained.
    """

    inner: Any
    slow: Any


def adapt(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer with a state of plain arrays, and with plain parameters.

    Its `update` accepts extra arguments, and passes on those that the optimizer accepts. The state of an optimizer
    without typed keys and lookahead is what Optax makes it.
    """
    inner: Any = optax.with_extra_args_support(optimizer)  # Optax's types know neither keys nor lookahead

    def init(params: Any) -> Any:
        # Lookahead warns if it gets parameters alone, and takes them as the fast ones.
        with quiet_logger("absl", logging.ERROR):
            state = _store_keys(inner.init(params))
        outermost = _nodes(state, (SlowWeights, optax.LookaheadState))
        is_lookahead = any(isinstance(node, optax.LookaheadState) for node in outermost)
        return SlowWeights(state, slow=params) if is_lookahead else state

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        extra = _accepted(state, extra)
        if not isinstance(state, SlowWeights):
            updates, state = inner.update(gradients, _load_keys(state), params, **extra)
            return updates, _store_keys(state)
        both = optax.LookaheadParams(fast=params, slow=state.slow)
        with quiet_logger("absl", logging.ERROR):  # `reset_state` calls `init`
            updates, fast_state = inner.update(gradients, _load_keys(state.inner), both, **extra)
        slow = optax.apply_updates(state.slow, updates.slow)
        return updates.fast, SlowWeights(_store_keys(fast_state), slow)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _accepted(state: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Return the extra arguments without those that an optimizer with this state refuses.

    By Optax's convention optimizers ignore extra arguments that they do not use, but `contrib.sam` accepts only its
    own, and line searches refuse what their `value_fn` does not take.
    """
    if _nodes(state, SAMState):
        return {name: value for name, value in extra.items() if name == "grad_fn"}
    left_out = {"grad_fn"} if _nodes(state, HutchinsonState) else {"grad_fn", "obj_fn"}
    return {name: value for name, value in extra.items() if name not in left_out}


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Return the parameters to test and predict with, which for some optimizers are not those that are trained.

    They are the slow parameters of `lookahead`, the averages of `contrib.schedule_free`, and `params` otherwise.
    """
    for node in _nodes(opt_state, (SlowWeights, ScheduleFreeState)):
        if isinstance(node, SlowWeights):
            chosen = node.slow
        else:
            chosen = schedule_free_eval_params(node, leave_out_as(params, node.z))  # type: ignore[arg-type]
        params = fill_in(chosen, params)
    return params


def needs_example_gradients(opt_state: Any) -> bool:
    """Return whether the optimizer takes the gradient of each example, `[N, ...]`, instead of their mean."""
    return bool(_nodes(opt_state, DifferentiallyPrivateAggregateState))


def _nodes(tree: Any, kinds: Any) -> list[Any]:
    """Return the outermost nodes of these types."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kinds))
    return [node for node in nodes if isinstance(node, kinds)]


def _store_keys(state: Any) -> Any:
    def store(x: Any) -> Any:
        is_key = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return StoredKey(jax.random.key_data(x), jax.random.key_impl(x)) if is_key else x

    return jax.tree.map(store, state)


def _load_keys(state: Any) -> Any:
    def load(x: Any) -> Any:
        return jax.random.wrap_key_data(x.data, impl=x.impl) if isinstance(x, StoredKey) else x

    return jax.tree.map(load, state, is_leaf=lambda x: isinstance(x, StoredKey))
