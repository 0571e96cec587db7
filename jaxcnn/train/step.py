"""One step of training and one of evaluation: pure functions of a state and a batch.

Neither knows how many devices there are. Under a mapped axis a step sees its device's share of the batch and
averages over the axis; without one it sees the whole batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn.train import metrics
from jaxcnn.train.losses import cross_entropy
from jaxcnn.train.state import TrainState

Loss = Callable[[jax.Array, jax.Array], jax.Array]
Step = Callable[[TrainState, Any], Any]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss = cross_entropy,
    *,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    aux_weight: float = 0.3,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, metrics.Sums]]:
    """The function `(state, batch) -> (state, metrics)` that makes one update of the parameters.

    Args:
      model: called as `model.apply(variables, images, train=True)`, returns logits `[N, classes]`.
      optimizer: turns the gradient of the mean loss into an update.
      loss: `(logits [N, classes], labels [N]) -> [N]`.
      augment: `(key, [H, W, C]) -> [H, W, C]`, applied to each image with a key of its own.
      normalize: `[N, H, W, C] -> [N, H, W, C]`, from pixels to the model's input.
      aux_weight: weight of the loss of each auxiliary classifier, whose logits the model sows in `aux_logits`.
      axis_name: the mapped axis over which the batch is spread, if there is one.

    The batch is a dict of `images` uint8 `[N, H, W, C]` and `labels` `[N]`; the metrics are sums over the whole
    batch (`loss`, without the auxiliary ones, `correct`, `examples`).
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, metrics.Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        augment_key, dropout_key = jax.random.split(key)
        images, labels = batch["images"], batch["labels"]
        device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
        if augment is not None:
            # Keys go by an example's place in the whole batch, so that they do not depend on the devices.
            places = device * len(images) + jnp.arange(len(images))
            keys = jax.vmap(lambda place: jax.random.fold_in(augment_key, place))(places)
            images = jax.vmap(augment)(keys, images)
        if normalize is not None:
            images = normalize(images)

        def objective(params: Any) -> tuple[jax.Array, tuple[Any, metrics.Sums]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, device)},
                mutable=["batch_stats", "aux_logits"],
            )
            losses = loss(logits, labels)
            auxiliary = [loss(aux, labels).mean() for aux in jax.tree.leaves(updates.get("aux_logits", {}))]
            return losses.mean() + aux_weight * sum(auxiliary), (
                updates.get("batch_stats", {}),
                metrics.sums(losses, logits, labels),
            )

        gradients, (batch_stats, sums) = jax.grad(objective, has_aux=True)(state.params)
        if axis_name is not None:
            # Running statistics are equal on all devices already if batch normalisation is synchronised; if it is
            # not, their mean is the best single value, and the state must not depend on which device it is read from.
            gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), axis_name)
            sums = jax.lax.psum(sums, axis_name)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new_state, sums

    return train_step


def make_eval_step(
    model: nn.Module,
    loss: Loss = cross_entropy,
    *,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], metrics.Sums]:
    """The function `(state, batch) -> metrics` that tests the model on one batch; arguments as in training.

    The batch also has a `mask` `[N]`, False for examples that do not count.
    """

    def eval_step(state: TrainState, batch: Any) -> metrics.Sums:
        images = batch["images"] if normalize is None else normalize(batch["images"])
        logits: Any = model.apply({"params": state.params, "batch_stats": state.batch_stats}, images, train=False)
        sums = metrics.sums(loss(logits, batch["labels"]), logits, batch["labels"], batch["mask"])
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return eval_step
