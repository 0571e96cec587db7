"""One step of training and one of evaluation: pure functions of a state and a batch.

Neither depends on the number of devices. Where `jaxcnn.layers.BATCH_AXIS` is bound, a step sees its device's part of
the batch and averages over the devices; else it sees the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UsageError
from jaxcnn.kernels.axes import is_bound, needs_mean
from jaxcnn.layers import BATCH_AXIS
from jaxcnn.train import metrics
from jaxcnn.train.examples import count_examples, device_index, reduce_over_devices, sum_over_devices
from jaxcnn.train.gradient import BatchLoss, Gradient, fill_in, leave_out_as, of_each_example, plain
from jaxcnn.train.metrics import Sums
from jaxcnn.train.optim import ema
from jaxcnn.train.optim.adapters import adapt, needs_example_gradients
from jaxcnn.train.optim.lookahead import Lookahead
from jaxcnn.train.state import TrainState, evaluation_variables
from jaxcnn.train.task import Classification, Task


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    task: Task | None = None,
    *,
    gradient: Gradient = plain,
    ema_decay: float = 0.0,
    lookahead: Lookahead | None = None,
    norms: bool = False,
) -> Callable[[TrainState, Any], tuple[TrainState, Sums]]:
    """Return the pure function `(state, batch) -> (state, sums)` that makes one training step.

    The batch is a tree of arrays with a leading axis of N examples; classification needs `image` `[N, H, W, C]` and
    `label` `[N]`. The sums are those of the task's metrics over the whole batch, with `loss` and `examples`.

    Every transformation of Optax works (`optim.adapters`). One that accepts extra arguments gets these, of the whole
    batch over all devices:

    - `value`: the loss.
    - `grad`: its gradient.
    - `value_fn` and `obj_fn`: the loss as a function of the parameters.
    - `grad_fn`: the gradient as a function of the parameters and of an index, which is not used.

    Differentially private optimizers get the gradient of each example.

    Args:
      model: a Linen module.
      optimizer: turns the gradient of the mean loss into an update.
      task: the loss and the metrics. Default: `Classification()`.
      gradient: `(loss, params) -> (gradients, aux)`; see `gradient`. float16 needs `gradient.scaled`.
      ema_decay: decay of the moving averages in the state's `ema`, if it has them.
      lookahead: `ema` has the slow network in place of moving averages; every few steps, training continues from it.
      norms: the sums also have `gradient_norm` and `update_norm`, the Euclidean norms over all parameters.

    Raises:
      UsageError: from the step, when it is traced, if the task cannot use the batch, or if the optimizer needs the
        gradient of each example and there is none.

    >>> import flax.linen as nn
    >>> from jaxcnn.train import create_state
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.Dense(2)(x.reshape(len(x), -1))
    >>> state = create_state(Linear(), optax.sgd(0.1), (4, 4, 1), seed=0)
    >>> batch = {"image": jnp.ones((8, 4, 4, 1)), "label": jnp.zeros(8, jnp.int32)}
    >>> state, sums = jax.jit(make_train_step(Linear(), optax.sgd(0.1)))(state, batch)
    >>> int(state.step), int(sums["examples"])
    (1, 8)
    """
    optimizer, task = adapt(optimizer), task or Classification()

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        batch = task.prepare(key, batch, True)
        examples = count_examples(batch)
        dropout_key = _dropout_key(key)

        def loss_of(params: Any, batch_stats: Any, part: Any, index: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            rngs = {"dropout": jax.random.fold_in(dropout_key, index)}
            value, updates, of_examples = _checked(task, task.loss(model, variables, part, rngs))
            count = count_examples(part)
            # The contribution of a micro-batch to the mean over the whole batch.
            total = value if count == examples else value * (count / examples)
            sums = {"loss": value * count, **metrics.sum_over_examples(of_examples, jnp.ones(count, bool))}
            return total, (updates.get("batch_stats", {}), {**sums, "total": total})

        first = jnp.zeros((), jnp.int32)
        batch_loss = BatchLoss(loss_of, batch, state.batch_stats, state.opt_state, first)
        mean_gradient = functools.partial(_over_devices, gradient, batch_loss)
        if needs_example_gradients(state.opt_state):
            gradients, batch_stats, sums = _of_examples(gradient, batch_loss, state.params)
        else:
            gradients, batch_stats, sums = mean_gradient(state.params)
        value = sums.pop("total")
        trainable = leave_out_as(state.params, gradients)
        value_fn = _value_function(mean_gradient, state.params)
        updates, opt_state = optimizer.update(
            gradients,
            state.opt_state,
            trainable,
            value=value,
            grad=gradients,
            value_fn=value_fn,
            obj_fn=value_fn,
            grad_fn=lambda params, _=0: mean_gradient(fill_in(params, state.params))[0],
        )
        if norms:
            sums = {**sums, "gradient_norm": optax.tree.norm(gradients), "update_norm": optax.tree.norm(updates)}
        learned = {"params": optax.apply_updates(trainable, updates), "batch_stats": batch_stats}
        average = state.ema
        if lookahead is not None:
            average, learned = _looked_ahead(state, learned, lookahead)
        elif average:
            average = _averaged(state, learned, ema_decay)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            **fill_in(learned, {"params": state.params, "batch_stats": state.batch_stats}),
            opt_state=opt_state,
            ema=average,
        )
        return new_state, sums

    return train_step


def _checked(task: Task, returned: Any) -> tuple[jax.Array, Mapping[str, Any], Mapping[str, Any]]:
    """Return what `task.loss` has returned: a scalar, changed variables and metrics.

    Raises:
      UsageError: if it is something else.
    """
    name = f"loss of task {type(task).__name__}"
    if not isinstance(returned, tuple) or len(returned) != 3 or not all(isinstance(x, Mapping) for x in returned[1:]):
        got = tuple(type(x).__name__ for x in returned) if isinstance(returned, tuple) else type(returned).__name__
        raise UsageError(f"{name} must return (scalar, updates, metrics), got {got}. The last two are dicts.")
    if jnp.shape(returned[0]):
        raise UsageError(
            f"{name} must be a scalar, got shape {jnp.shape(returned[0])}. Return the mean over the batch."
        )
    return returned


def _over_devices(gradient: Gradient, loss: BatchLoss, params: Any) -> tuple[Any, Any, Sums]:
    """Return gradients, batch statistics and sums of the whole batch, equal on all devices.

    Of the sums, `total` is the mean loss.
    """
    gradients, (batch_stats, sums) = gradient(loss, params)
    # Running statistics are already equal on all devices if batch normalization is synchronized. Otherwise their mean
    # is the best single value: the state must not depend on which device it is read from.
    (gradients, batch_stats), sums = reduce_over_devices((gradients, batch_stats), sums)
    return gradients, batch_stats, _with_mean(sums)


def _of_examples(gradient: Gradient, loss: BatchLoss, params: Any) -> tuple[Any, Any, Sums]:
    """Return what `_over_devices` returns, with the gradients of the examples of all devices, `[N, ...]`."""
    if gradient is not plain:
        raise UsageError(
            "the optimizer needs the gradient of each example, which cannot be accumulated, scaled for float16, or "
            "restricted to a part of the parameters. Use accumulate=1, dtype='float32' and freeze=None"
        )
    gradients, (batch_stats, sums) = of_each_example(loss, params)
    if needs_mean(BATCH_AXIS, gradients, sums):
        gradients = jax.tree.map(lambda g: jax.lax.all_gather(g, BATCH_AXIS, tiled=True), gradients)
    return gradients, batch_stats, _with_mean(sum_over_devices(sums))


def _with_mean(sums: Sums) -> Sums:
    """Return sums over all devices with the mean of `total`, which is a mean over the examples of each device."""
    if not is_bound(BATCH_AXIS):
        return sums
    return {**sums, "total": sums["total"] / jax.lax.axis_size(BATCH_AXIS)}


def _value_function(mean_gradient: Callable[[Any], Any], params: Any) -> Callable[[Any], jax.Array]:
    """Return the loss of the whole batch as a function of the trainable parameters.

    Args:
      mean_gradient: returns what `_over_devices` returns, for all parameters.
      params: all parameters.
    """

    @jax.custom_vjp
    def value_fn(trainable: Any) -> jax.Array:
        return forward(trainable)[0]  # the compiler drops the gradient

    # JAX's own derivative would be that of this device's part of the batch.
    def forward(trainable: Any) -> tuple[jax.Array, Any]:
        gradients, _, sums = mean_gradient(fill_in(trainable, params))
        return sums["total"], gradients

    def backward(gradients: Any, cotangent: jax.Array) -> tuple[Any]:
        return (jax.tree.map(lambda g: cotangent * g, gradients),)

    value_fn.defvjp(forward, backward)
    return value_fn


def _dropout_key(key: jax.Array) -> jax.Array:
    """Return this device's dropout key for the step; `Classification.prepare` uses the first two of the three keys."""
    *_, dropout_key = jax.random.split(key, 3)
    return jax.random.fold_in(dropout_key, device_index())


def _averaged(state: TrainState, learned: Any, decay: float) -> Any:
    """Return the moving averages after the step. Holes of the gradient keep their averages."""
    average = ema.update(leave_out_as(state.ema, learned), learned, decay, state.step)
    return fill_in(average, state.ema)


def _looked_ahead(state: TrainState, learned: Any, lookahead: Lookahead) -> tuple[Any, Any]:
    """Return the slow network and the learned variables after the step. Holes of the gradient keep their values."""
    slow, fast = lookahead.update(leave_out_as(state.ema, learned), learned, state.step)
    return fill_in(slow, state.ema), fast


def make_eval_step(model: Any, task: Task | None = None) -> Callable[[TrainState, Any], Sums]:
    """Return the pure function `(state, padded) -> sums` that evaluates the model on one batch.

    It is `evaluate_batch` with the variables of `evaluation_variables(state)`.

    Args:
      model: a Linen module.
      task: the loss and the metrics. Default: `Classification()`.

    >>> import flax.linen as nn
    >>> from jaxcnn.train import create_state
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.Dense(2)(x.reshape(len(x), -1))
    >>> state = create_state(Linear(), optax.sgd(0.1), (4, 4, 1), seed=0)
    >>> batch = {"image": jnp.ones((8, 4, 4, 1)), "label": jnp.zeros(8, jnp.int32)}
    >>> mask = jnp.arange(8) < 5  # three examples of padding
    >>> int(jax.jit(make_eval_step(Linear()))(state, (batch, mask))["examples"])
    5
    """
    task = task or Classification()
    return lambda state, padded: evaluate_batch(model, task, evaluation_variables(state), padded)


def evaluate_batch(model: Any, task: Task, variables: Any, padded: tuple[Any, jax.Array]) -> Sums:
    """Return the sums of the task's metrics over a batch and over all devices, with the number of `examples`.

    Random numbers of `task.prepare` are the same for every batch and every evaluation.

    Args:
      model: a Linen module.
      task: the loss and the metrics.
      variables: `{"params": ..., "batch_stats": ...}`.
      padded: a batch, and a mask, bool `[N]`, False for examples that do not count (`jaxcnn.data.Padded`).

    Raises:
      UsageError: when it is traced, if the task cannot use the batch.
    """
    batch, mask = padded
    of_examples = task.evaluate(model, variables, task.prepare(jax.random.key(0), batch, False))
    return sum_over_devices(metrics.sum_over_examples(of_examples, mask))
