"""Adapt any Optax gradient transformation to the training step. The state of the training step contains only arrays.

Three kinds of Optax gradient transformations need more than `update(gradients, state, params)`:

- Noise: the optimizer's state contains a typed random key (`noisy_sgd`, `add_noise`, `contrib.sophia`). `adapt` stores
  the raw data of the key.
- Lookahead: the parameters are a pair of fast and slow parameters (`lookahead`). `adapt` stores the slow parameters in
  the optimizer's state.
- Extra arguments: `update` needs values such as the loss (`lbfgs`, `polyak_sgd`). `adapt` passes these values from the
  training step to `update`.

For some optimizers, the parameters for evaluation differ from the trained parameters; see `evaluation_params`.
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
    """A typed random key of JAX, stored as an array.

    Attributes:
      data: raw data of the key, uint32.
      impl: name of the random number generator.
    """

    data: jax.Array
    impl: Any = struct.field(pytree_node=False)


@struct.dataclass
class SlowWeights:
    """State of a lookahead optimizer, together with its slow parameters.

    Attributes:
      inner: state of the Optax optimizer.
      slow: slow parameters. The fast parameters are the parameters in the training state.
    """

    inner: Any
    slow: Any


def adapt(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer whose state contains only arrays, and whose parameters are a plain pytree of arrays.

    The `update` function of the returned optimizer accepts any extra arguments, and passes to `optimizer` the arguments
    that `optimizer` accepts. If `optimizer` uses neither typed keys nor lookahead, the returned optimizer has the same
    state as `optimizer`.
    """
    inner: Any = optax.with_extra_args_support(optimizer)  # Optax's type hints do not cover keys and lookahead

    def init(params: Any) -> Any:
        # Lookahead logs a warning if it gets plain parameters, and uses them as the fast parameters.
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
        with quiet_logger("absl", logging.ERROR):  # with `reset_state`, `update` calls `init`, which logs the warning
            updates, fast_state = inner.update(gradients, _load_keys(state.inner), both, **extra)
        slow = optax.apply_updates(state.slow, updates.slow)
        return updates.fast, SlowWeights(_store_keys(fast_state), slow)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _accepted(state: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Drop the extra arguments that the optimizer with this state would reject.

    By convention, Optax optimizers ignore extra arguments that they do not use. However, `contrib.sam` accepts only its
    own argument, and line searches reject arguments that their `value_fn` does not accept.
    """
    if _nodes(state, SAMState):
        return {name: value for name, value in extra.items() if name == "grad_fn"}
    left_out = {"grad_fn"} if _nodes(state, HutchinsonState) else {"grad_fn", "obj_fn"}
    return {name: value for name, value in extra.items() if name not in left_out}


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Return the parameters for evaluation and prediction.

    For `lookahead`, these are the slow parameters. For `contrib.schedule_free`, these are the averaged parameters. For
    all other optimizers, these are the trained parameters, `params`.
    """
    for node in _nodes(opt_state, (SlowWeights, ScheduleFreeState)):
        if isinstance(node, SlowWeights):
            chosen = node.slow
        else:
            chosen = schedule_free_eval_params(node, leave_out_as(params, node.z))  # type: ignore[arg-type]
        params = fill_in(chosen, params)
    return params


def needs_example_gradients(opt_state: Any) -> bool:
    """Return whether the optimizer needs the gradient of each single example, `[N, ...]`, and not only the mean."""
    return bool(_nodes(opt_state, DifferentiallyPrivateAggregateState))


def _nodes(tree: Any, kinds: Any) -> list[Any]:
    """Return the outermost nodes of the types `kinds` in a pytree."""
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
