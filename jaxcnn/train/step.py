"""One step of training and one of evaluation: pure functions of a state and a batch.

Neither depends on the number of devices. Under a mapped axis a step sees its device's shard of the batch and averages
over the axis; without one it sees the whole batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UsageError
from jaxcnn.kernels.axes import needs_mean
from jaxcnn.train import metrics
from jaxcnn.train.gradient import BatchLoss, Gradient, fill_in, leave_out_as, of_each_example, plain
from jaxcnn.train.losses import Loss, check_labels, cross_entropy
from jaxcnn.train.mixing import main_labels, mixed_loss
from jaxcnn.train.optim import ema
from jaxcnn.train.optim.adapters import adapt, needs_example_gradients
from jaxcnn.train.prepare import Prepare
from jaxcnn.train.state import TrainState, evaluation_variables

Step = Callable[[TrainState, Any], Any]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    loss: Loss = cross_entropy,
    *,
    prepare: Prepare | None = None,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    aux_weight: float = 0.3,
    gradient: Gradient = plain,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, metrics.Sums]]:
    """Return the pure function `(state, batch) -> (state, metrics)` that makes one training step.

    The batch is a dict of `image` uint8 `[N, H, W, C]` and `label` int32 `[N]`. The metrics are sums over the whole
    batch: `loss` (without auxiliary losses), `correct` and `examples`.

    Every transformation of Optax works (`optim.adapters`). One that accepts extra arguments gets these, of the whole
    batch over all devices:

    - `value`: the loss, with auxiliary losses.
    - `grad`: its gradient.
    - `value_fn` and `obj_fn`: the loss as a function of the parameters.
    - `grad_fn`: the gradient as a function of the parameters and of an index, which is not used.

    Differentially private optimizers get the gradient of each example.

    Args:
      model: called as `model.apply(variables, images, train=True)`, returns logits `[N, classes]`.
      optimizer: turns the gradient of the mean loss into an update.
      loss: `(logits [N, classes], labels [N]) -> [N]`.
      prepare: augments and mixes the images of a batch; see `prepare.make_prepare`.
      normalize: `[N, H, W, C] -> [N, H, W, C]`, from pixels to the model's input.
      aux_weight: weight of the loss of each auxiliary classifier, whose logits the model sows in `aux_logits`.
      gradient: `(loss, params) -> (gradients, aux)`; see `gradient`. float16 needs `gradient.scaled`.
      ema_decay: decay of the moving averages in the state's `ema`, if it has them.
      axis_name: the mapped axis over which the batch is distributed, if there is one.

    Raises:
      UsageError: from the step, when it is traced, if the labels are not integers `[N]`, or if the optimizer needs the
        gradient of each example and there is none.
    """
    optimizer = adapt(optimizer)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, metrics.Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        images, labels = batch["image"], batch["label"]
        check_labels(labels, images.shape[:1])
        if prepare is not None:
            images, labels = prepare(key, images, labels, axis_name)
        examples = len(images)
        dropout_key = _dropout_key(key, axis_name)

        def loss_of(params: Any, batch_stats: Any, part: Any, index: jax.Array) -> tuple[jax.Array, Any]:
            images, labels = part
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images if normalize is None else normalize(images),
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, index)},
                mutable=["batch_stats", "aux_logits"],
            )
            losses = mixed_loss(loss, logits, labels)
            auxiliary = [mixed_loss(loss, x, labels).sum() for x in jax.tree.leaves(updates.get("aux_logits", {}))]
            total = (losses.sum() + aux_weight * sum(auxiliary)) / examples
            sums = {**metrics.sums(losses, logits, main_labels(labels)), "total": total}
            return total, (updates.get("batch_stats", {}), sums)

        first = jnp.zeros((), jnp.int32)
        batch_loss = BatchLoss(loss_of, (images, labels), state.batch_stats, state.opt_state, first)
        mean_gradient = functools.partial(_over_devices, gradient, batch_loss, axis_name)
        if needs_example_gradients(state.opt_state):
            gradients, batch_stats, sums = _of_examples(gradient, batch_loss, state.params, axis_name)
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
        learned = {"params": optax.apply_updates(trainable, updates), "batch_stats": batch_stats}
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            **fill_in(learned, {"params": state.params, "batch_stats": state.batch_stats}),
            opt_state=opt_state,
            ema=_averaged(state, learned, ema_decay) if state.ema else {},
        )
        return new_state, sums

    return train_step


def _over_devices(
    gradient: Gradient, loss: BatchLoss, axis_name: str | None, params: Any
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Return gradients, batch statistics and sums of the whole batch, equal on all devices.

    Of the sums, `total` is the mean loss with auxiliary losses.
    """
    gradients, (batch_stats, sums) = gradient(loss, params)
    if axis_name is not None and needs_mean(axis_name, gradients, batch_stats, sums):
        # Running statistics are already equal on all devices if batch normalization is synchronized. Otherwise their
        # mean is the best single value: the state must not depend on which device it is read from.
        gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
        sums = _summed(sums, axis_name)
    return gradients, batch_stats, sums


def _of_examples(
    gradient: Gradient, loss: BatchLoss, params: Any, axis_name: str | None
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Return what `_over_devices` returns, with the gradients of the examples of all devices, `[N, ...]`."""
    if gradient is not plain:
        raise UsageError(
            "the optimizer needs the gradient of each example, which cannot be accumulated, scaled for float16, or "
            "taken of a part of the parameters. Use accumulate=1, dtype='float32' and freeze=None"
        )
    gradients, (batch_stats, sums) = of_each_example(loss, params)
    if axis_name is not None and needs_mean(axis_name, gradients, sums):
        gradients = jax.tree.map(lambda g: jax.lax.all_gather(g, axis_name, tiled=True), gradients)
        sums = _summed(sums, axis_name)
    return gradients, batch_stats, sums


def _summed(sums: dict[str, jax.Array], axis_name: str) -> dict[str, jax.Array]:
    """Return the sums over all devices. Each device's `total` is a mean over its examples, so their mean is taken."""
    sums = jax.lax.psum(sums, axis_name)
    return {**sums, "total": sums["total"] / jax.lax.axis_size(axis_name)}


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


def _dropout_key(key: jax.Array, axis_name: str | None) -> jax.Array:
    """Return this device's dropout key for the step; `prepare` uses the first two of the same three keys."""
    *_, dropout_key = jax.random.split(key, 3)
    return jax.random.fold_in(dropout_key, 0 if axis_name is None else jax.lax.axis_index(axis_name))


def _averaged(state: TrainState, learned: Any, decay: float) -> Any:
    """Return the moving averages after the step. What the gradient has left out keeps its average."""
    average = ema.update(leave_out_as(state.ema, learned), learned, decay, state.step)
    return fill_in(average, state.ema)


def make_eval_step(
    model: Any,
    loss: Loss = cross_entropy,
    *,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    flip: bool = False,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], metrics.Sums]:
    """Return the pure function `(state, batch) -> metrics` that tests the model on one batch.

    The variables are those of `evaluation_variables`. The batch is a pair of the examples and a mask, bool `[N]`, False
    for examples that do not count (`jaxcnn.data.Padded`).

    Args:
      model: called as `model.apply(variables, images, train=False)`, returns logits `[N, classes]`.
      loss: `(logits [N, classes], labels [N]) -> [N]`.
      normalize: `[N, H, W, C] -> [N, H, W, C]`, from pixels to the model's input.
      flip: average the logits of each image and its mirror image.
      axis_name: the mapped axis over which the batch is distributed, if there is one.

    Raises:
      UsageError: from the step, when it is traced, if the labels are not integers `[N]`.
    """

    def eval_step(state: TrainState, padded: tuple[Any, jax.Array]) -> metrics.Sums:
        batch, mask = padded
        check_labels(batch["label"], batch["image"].shape[:1])
        images = batch["image"] if normalize is None else normalize(batch["image"])
        logits = evaluation_logits(model, evaluation_variables(state), images, flip=flip)
        sums = metrics.sums(loss(logits, batch["label"]), logits, batch["label"], mask)
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return eval_step


def evaluation_logits(model: Any, variables: Any, images: jax.Array, *, flip: bool) -> jax.Array:
    """Return the logits `[N, classes]` of inputs `[N, H, W, C]`; with `flip`, averaged over mirror images."""
    logits = model.apply(variables, images, train=False)
    if not flip:
        return logits
    return (logits + model.apply(variables, jnp.flip(images, axis=2), train=False)) / 2
