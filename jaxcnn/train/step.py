"""One step of training and one of evaluation: pure functions of a state and a batch.

Neither knows how many devices there are. Under a mapped axis a step sees its device's share of the batch and
averages over the axis; without one it sees the whole batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.kernels.axes import needs_mean
from jaxcnn.train import metrics
from jaxcnn.train.gradient import sum_over_parts
from jaxcnn.train.losses import Loss, cross_entropy
from jaxcnn.train.mixing import Mix, main_labels, mix_batch, mixed_loss
from jaxcnn.train.optim import ema
from jaxcnn.train.optim.mixed_precision import loss_scale
from jaxcnn.train.state import TrainState, evaluation_variables

Step = Callable[[TrainState, Any], Any]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    loss: Loss = cross_entropy,
    *,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    mix: Mix | None = None,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    aux_weight: float = 0.3,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, metrics.Sums]]:
    """The function `(state, batch) -> (state, metrics)` that makes one update of the parameters.

    Args:
      model: called as `model.apply(variables, images, train=True)`, returns logits `[N, classes]`.
      optimizer: turns the gradient of the mean loss into an update.
      loss: `(logits [N, classes], labels [N]) -> [N]`.
      augment: `(key, [H, W, C]) -> [H, W, C]`, applied to each image with a key of its own.
      mix: `(key, image, partner) -> (image, share)`, applied to pairs of augmented images; see `mixing`.
      normalize: `[N, H, W, C] -> [N, H, W, C]`, from pixels to the model's input.
      aux_weight: weight of the loss of each auxiliary classifier, whose logits the model sows in `aux_logits`.
      ema_decay: decay of the averages in the state's `ema`, where it has them.
      accumulate: micro-batches, one after another, that the batch is split into on each device; see `accumulation`.
      axis_name: the mapped axis over which the batch is spread, if there is one.

    The batch is a dict of `images` uint8 `[N, H, W, C]` and `labels` `[N]`; the metrics are sums over the whole
    batch (`loss`, without the auxiliary ones, `correct`, `examples`).
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, metrics.Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        augment_key, mix_key, dropout_key = jax.random.split(key, 3)
        images, labels = batch["images"], batch["labels"]
        examples = len(images)
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        # Keys go by an example's place in the whole batch, so that they do not depend on the devices.
        places = device * examples + jnp.arange(examples)
        if augment is not None:
            images = jax.vmap(augment)(_keys(augment_key, places), images)
        if mix is not None:
            images, labels = mix_batch(mix, _keys(mix_key, places), images, labels, axis_name)
        scale = loss_scale(state.opt_state)

        def gradients_of(batch_stats: Any, part: Any, index: jax.Array) -> tuple[Any, tuple[Any, metrics.Sums]]:
            """New statistics, the part's share of the gradient of the mean loss, and its metrics."""
            images, labels = part

            def objective(params: Any) -> tuple[jax.Array, tuple[Any, metrics.Sums]]:
                logits, updates = model.apply(
                    {"params": params, "batch_stats": batch_stats},
                    images if normalize is None else normalize(images),
                    train=True,
                    rngs={"dropout": jax.random.fold_in(jax.random.fold_in(dropout_key, device), index)},
                    mutable=["batch_stats", "aux_logits"],
                )
                losses = mixed_loss(loss, logits, labels)
                auxiliary = [mixed_loss(loss, x, labels).sum() for x in jax.tree.leaves(updates.get("aux_logits", {}))]
                total = losses.sum() + aux_weight * sum(auxiliary)
                sums = metrics.sums(losses, logits, main_labels(labels))
                return scale * total / examples, (updates.get("batch_stats", {}), sums)

            gradients, (batch_stats_after, sums) = jax.grad(objective, has_aux=True)(state.params)
            return batch_stats_after, (gradients, sums)

        batch_stats, (gradients, sums) = sum_over_parts(gradients_of, state.batch_stats, (images, labels), accumulate)
        if axis_name is not None and needs_mean(axis_name, gradients, batch_stats, sums):
            # Running statistics are equal on all devices already if batch normalisation is synchronised; if it is
            # not, their mean is the best single value, and the state must not depend on which device it is read from.
            gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
            sums = jax.lax.psum(sums, axis_name)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        learned = {"params": params, "batch_stats": batch_stats}
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            **learned,
            opt_state=opt_state,
            ema=ema.update(state.ema, learned, ema_decay, state.step) if state.ema else {},
        )
        return new_state, sums

    return train_step


def _keys(key: jax.Array, places: jax.Array) -> jax.Array:
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


def make_eval_step(
    model: Any,
    loss: Loss = cross_entropy,
    *,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    flip: bool = False,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], metrics.Sums]:
    """The function `(state, batch) -> metrics` that tests the model on one batch; arguments as in training.

    The variables are those of `evaluation_variables`. With `flip` the logits are the mean of those of each image and
    of its mirror image. The batch also has a `mask` `[N]`, False for examples that do not count.
    """

    def eval_step(state: TrainState, batch: Any) -> metrics.Sums:
        images = batch["images"] if normalize is None else normalize(batch["images"])
        logits = evaluation_logits(model, evaluation_variables(state), images, flip=flip)
        sums = metrics.sums(loss(logits, batch["labels"]), logits, batch["labels"], batch["mask"])
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return eval_step


def evaluation_logits(model: Any, variables: Any, images: jax.Array, *, flip: bool) -> jax.Array:
    """Logits `[N, classes]` of the model's inputs `[N, H, W, C]`; with `flip` averaged with the mirror images'."""
    logits = model.apply(variables, images, train=False)
    if not flip:
        return logits
    return (logits + model.apply(variables, jnp.flip(images, axis=2), train=False)) / 2
