"""The training step and the evaluation step: pure functions of a training state and a batch.

The same functions run on one device and on many devices. If `pmap` or `shard_map` binds the axis name
`jaxcnn.layers.BATCH_AXIS`, a step gets the part of the batch on its own device, and averages over the devices. If the
axis name is not bound, a step gets the whole batch.
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

    The batch is a pytree of arrays with a leading axis of N examples. Classification needs a dict with `image`
    `[N, H, W, C]` and `label` `[N]`. The sums are the task's metrics, summed over the whole batch, with the entries
    `loss` and `examples`.

    All Optax gradient transformations are supported (`optim.adapters`). An optimizer that accepts extra arguments gets
    the following arguments, which are computed for the whole batch over all devices:

    - `value`: the loss.
    - `grad`: the gradient of the loss.
    - `value_fn` and `obj_fn`: the loss as a function of the parameters.
    - `grad_fn`: the gradient as a function of the parameters and of an index, which is ignored.

    Differentially private optimizers get the gradient of each example.

    Args:
      model: a Linen module.
      optimizer: any Optax gradient transformation, which converts the gradient of the mean loss to an update.
      task: object that defines the loss and the metrics. Default: `Classification()`.
      gradient: function that computes the gradient, `(loss, params) -> (gradients, aux)`; see `jaxcnn.train.gradient`.
        Training in float16 needs `gradient.scaled`.
      ema_decay: decay of the moving averages in `state.ema`. The decay has no effect if `state.ema` is empty.
      lookahead: lookahead method, or None. With lookahead, `state.ema` contains the slow network in place of moving
        averages.
      norms: whether the sums also contain `gradient_norm` and `update_norm`, the Euclidean norms over all parameters.

    Raises:
      UsageError: when the step is traced, if the task does not support the batch, or if the optimizer needs the
        gradient of each example and the model or `gradient` does not support it.

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
            # `total` is the contribution of a micro-batch to the mean loss over the whole batch.
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
    """Check and return the value of `task.loss`: a scalar, a dict of changed variables, and a dict of metrics.

    Raises:
      UsageError: if `returned` does not have this form.
    """
    name = f"loss of task {type(task).__name__}"
    if not isinstance(returned, tuple) or len(returned) != 3 or not all(isinstance(x, Mapping) for x in returned[1:]):
        got = tuple(type(x).__name__ for x in returned) if isinstance(returned, tuple) else type(returned).__name__
        raise UsageError(f"{name} must return (scalar, updates, metrics), got {got}. Return dicts for the last two.")
    if jnp.shape(returned[0]):
        raise UsageError(
            f"{name} must be a scalar, got shape {jnp.shape(returned[0])}. Return the mean over the batch."
        )
    return returned


def _over_devices(gradient: Gradient, loss: BatchLoss, params: Any) -> tuple[Any, Any, Sums]:
    """Return the gradients, batch statistics and metric sums of the whole batch, which are equal on all devices.

    The entry `total` of the sums is the mean loss.
    """
    gradients, (batch_stats, sums) = gradient(loss, params)
    # If batch normalization is synchronized, running statistics are already equal on all devices. Otherwise, they are
    # averaged, since all devices must have the same state.
    (gradients, batch_stats), sums = reduce_over_devices((gradients, batch_stats), sums)
    return gradients, batch_stats, _with_mean(sums)


def _of_examples(gradient: Gradient, loss: BatchLoss, params: Any) -> tuple[Any, Any, Sums]:
    """Return the values of `_over_devices`, but with the gradient of each example of the whole batch, `[N, ...]`."""
    if gradient is not plain:
        raise UsageError(
            "the optimizer needs the gradient of each example, which cannot be accumulated, scaled for float16, or "
            "restricted to a part of the parameters. Use accumulate=1, dtype='float32' and freeze=None."
        )
    gradients, (batch_stats, sums) = of_each_example(loss, params)
    if needs_mean(BATCH_AXIS, gradients, sums):
        gradients = jax.tree.map(lambda g: jax.lax.all_gather(g, BATCH_AXIS, tiled=True), gradients)
    return gradients, batch_stats, _with_mean(sum_over_devices(sums))


def _with_mean(sums: Sums) -> Sums:
    """Divide the entry `total`, a sum over devices of mean losses, by the number of devices. Return the sums."""
    if not is_bound(BATCH_AXIS):
        return sums
    return {**sums, "total": sums["total"] / jax.lax.axis_size(BATCH_AXIS)}


def _value_function(mean_gradient: Callable[[Any], Any], params: Any) -> Callable[[Any], jax.Array]:
    """Return a function from the trainable parameters to the mean loss of the whole batch.

    Args:
      mean_gradient: function from all parameters to the values of `_over_devices`.
      params: all parameters, including frozen parameters.
    """

    @jax.custom_vjp
    def value_fn(trainable: Any) -> jax.Array:
        return forward(trainable)[0]  # the compiler removes the unused gradient

    # Without a custom derivative, JAX would differentiate only the loss of this device's part of the batch.
    def forward(trainable: Any) -> tuple[jax.Array, Any]:
        gradients, _, sums = mean_gradient(fill_in(trainable, params))
        return sums["total"], gradients

    def backward(gradients: Any, cotangent: jax.Array) -> tuple[Any]:
        return (jax.tree.map(lambda g: cotangent * g, gradients),)

    value_fn.defvjp(forward, backward)
    return value_fn


def _dropout_key(key: jax.Array) -> jax.Array:
    """Return this device's dropout key for a step, from the third of three keys that are split from the step's key."""
    *_, dropout_key = jax.random.split(key, 3)
    return jax.random.fold_in(dropout_key, device_index())


def _averaged(state: TrainState, learned: Any, decay: float) -> Any:
    """Return the moving averages after a step. The averages of parameters without a gradient do not change."""
    average = ema.update(leave_out_as(state.ema, learned), learned, decay, state.step)
    return fill_in(average, state.ema)


def _looked_ahead(state: TrainState, learned: Any, lookahead: Lookahead) -> tuple[Any, Any]:
    """Return the slow and the fast network after a step. Parameters without a gradient do not change."""
    slow, fast = lookahead.update(leave_out_as(state.ema, learned), learned, state.step)
    return fill_in(slow, state.ema), fast


def make_eval_step(model: Any, task: Task | None = None) -> Callable[[TrainState, Any], Sums]:
    """Return the pure function `(state, padded) -> sums` that evaluates the model on one batch.

    The function calls `evaluate_batch` with the variables that `evaluation_variables(state)` returns.

    Args:
      model: a Linen module.
      task: object that defines the loss and the metrics. Default: `Classification()`.

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
    """Return the task's metrics, summed over a batch on all devices. The entry `examples` is the number of examples.

    `task.prepare` gets the same random key for every batch and in every evaluation.

    Args:
      model: a Linen module.
      task: object that defines the loss and the metrics.
      variables: `{"params": ..., "batch_stats": ...}`.
      padded: a pair of a batch and a mask, bool `[N]`, which is False for padding (`jaxcnn.data.Padded`).

    Raises:
      UsageError: when the function is traced, if the task does not support the batch.
    """
    batch, mask = padded
    of_examples = task.evaluate(model, variables, task.prepare(jax.random.key(0), batch, False))
    return sum_over_devices(metrics.sum_over_examples(of_examples, mask))
