"""Functions that compute the gradient of a loss: plain, over micro-batches, with a loss scale, or per example.

A gradient function is a function `(loss, params) -> (gradients, aux)`, where `loss(params)` returns `(scalar, aux)`.
Gradient functions can be nested: `scaled(loss_scale, accumulated(4))` sums the scaled gradients of four micro-batches,
and divides the sum by the scale. The training step accepts any gradient function.

A gradient function may return a hole, `optax.MaskedNode()`, in place of a parameter's gradient or of batch statistics.
The training step then does not change this parameter or these batch statistics.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UsageError

# Default size of the micro-batches if a batch is the whole training set: few enough images to fit into memory.
FULL_BATCH_IMAGES = 512


@dataclass(frozen=True, eq=False)
class BatchLoss:
    """The loss of one batch as a function of the parameters.

    Attributes:
      function: function `(params, batch_stats, batch, index) -> (loss, (batch_stats, sums))`. For a micro-batch, the
        loss is the micro-batch's contribution to the mean over the whole batch, so that the losses of all micro-batches
        add up to the loss of the whole batch. The entry `total` of `sums` is the loss.
      batch: the whole batch, or a micro-batch: a pytree of arrays `[N, ...]`.
      batch_stats: running statistics of batch normalization before this batch.
      opt_state: the optimizer's state before the step.
      index: index of the micro-batch, int32 scalar, from which dropout masks are derived.

    >>> def function(params, batch_stats, batch, index):
    ...     loss = jnp.mean((params * batch["x"] - batch["y"]) ** 2)
    ...     return loss, (batch_stats, {"total": loss})
    >>> batch = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([2.0, 4.0])}
    >>> loss = BatchLoss(function, batch, {}, (), jnp.zeros((), jnp.int32))
    >>> loss(jnp.array(3.0))[0].item()
    2.5
    """

    function: Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Any]]
    batch: Any
    batch_stats: Any
    opt_state: Any
    index: jax.Array

    def __call__(self, params: Any) -> tuple[jax.Array, Any]:
        return self.function(params, self.batch_stats, self.batch, self.index)


Gradient = Callable[[BatchLoss, Any], tuple[Any, Any]]
"""Function `(loss, params) -> (gradients, aux)`. `aux` are the auxiliary values that `loss(params)` returns."""


def plain(loss: BatchLoss, params: Any) -> tuple[Any, Any]:
    """Return the gradient of the loss, and the auxiliary values that the loss returns.

    >>> def function(params, batch_stats, batch, index):
    ...     return jnp.mean((params - batch) ** 2), (batch_stats, {})
    >>> loss = BatchLoss(function, jnp.array([1.0, 3.0]), {}, (), jnp.zeros((), jnp.int32))
    >>> plain(loss, jnp.array(0.0))[0].item()
    -4.0
    """
    return jax.grad(loss, has_aux=True)(params)


def accumulated(parts: int, gradient: Gradient = plain) -> Gradient:
    """Return a gradient function that sums the gradients of `parts` micro-batches, to save memory.

    Batch normalization uses the statistics of each micro-batch, and updates its running statistics after each
    micro-batch. For models without batch normalization, the sum is equal to the gradient of the whole batch.

    >>> def function(params, batch_stats, batch, index):
    ...     share = len(batch) / 4  # of the whole batch
    ...     return share * jnp.mean((params - batch) ** 2), (batch_stats, {})
    >>> loss = BatchLoss(function, jnp.array([1.0, 3.0, 5.0, 7.0]), {}, (), jnp.zeros((), jnp.int32))
    >>> plain(loss, jnp.array(0.0))[0].item(), accumulated(2)(loss, jnp.array(0.0))[0].item()
    (-8.0, -8.0)
    """
    if parts == 1:
        return gradient

    def of_parts(loss: BatchLoss, params: Any) -> tuple[Any, Any]:
        def of_part(batch_stats: Any, part: Any, index: jax.Array) -> tuple[Any, Any]:
            part_loss = dataclasses.replace(loss, batch=part, batch_stats=batch_stats, index=index)
            gradients, (batch_stats, sums) = gradient(part_loss, params)
            return batch_stats, (gradients, sums)

        batch_stats, (gradients, sums) = _sum_over_parts(of_part, loss.batch_stats, loss.batch, parts)
        return gradients, (batch_stats, sums)

    return of_parts


def of_each_example(loss: BatchLoss, params: Any) -> tuple[Any, Any]:
    """Return the gradient of the loss of each single example, `[N, ...]`, for differentially private optimizers.

    Raises:
      UsageError: if the model has batch normalization, with which the loss of an example depends on other examples.
    """
    if jax.tree.leaves(loss.batch_stats):
        raise UsageError(
            "the optimizer needs the gradient of each example, which is not defined with batch normalization. "
            "Use a model without batch normalization."
        )
    examples = len(jax.tree.leaves(loss.batch)[0])

    def of_one(example: Any, index: jax.Array) -> tuple[Any, Any]:
        part = jax.tree.map(lambda x: x[None], example)
        return plain(dataclasses.replace(loss, batch=part, index=index), params)

    gradients, (_, sums) = jax.vmap(of_one)(loss.batch, jnp.arange(examples, dtype=jnp.int32))
    # The gradient is that of the example's contribution to the mean over N examples. Multiply it by N.
    gradients = jax.tree.map(lambda g: examples * g, gradients)
    return gradients, (loss.batch_stats, jax.tree.map(lambda x: x.sum(0), sums))


def scaled(loss_scale: Callable[[Any], jax.Array], gradient: Gradient = plain) -> Gradient:
    """Return a gradient function that multiplies the loss by a scale, and divides the gradients by the scale.

    Args:
      loss_scale: function from the optimizer's state to the scale, such as `mixed_precision.loss_scale`.
      gradient: gradient function that is applied to the scaled loss.

    >>> def function(params, batch_stats, batch, index):
    ...     return jnp.mean((params - batch) ** 2), (batch_stats, {})
    >>> loss = BatchLoss(function, jnp.array([1.0, 3.0]), {}, (), jnp.zeros((), jnp.int32))
    >>> scaled(lambda opt_state: jnp.float32(1024))(loss, jnp.array(0.0))[0].item()
    -4.0
    """

    def of_scaled(loss: BatchLoss, params: Any) -> tuple[Any, Any]:
        scale = loss_scale(loss.opt_state)

        def function(*args: Any) -> tuple[jax.Array, Any]:
            value, aux = loss.function(*args)
            return scale * value, aux

        gradients, aux = gradient(dataclasses.replace(loss, function=function), params)
        return jax.tree.map(lambda g: g / scale, gradients), aux

    return of_scaled


def parts_of_full_batch(images: int) -> int:
    """Return the default number of micro-batches of a whole training set with `images` images per device."""
    return -(-images // FULL_BATCH_IMAGES)


def leave_out(tree: Any, selected: Any) -> Any:
    """Replace each leaf of `tree` by a hole, `optax.MaskedNode()`, where the pytree of booleans `selected` is True."""
    return jax.tree.map(lambda x, out: optax.MaskedNode() if out else x, tree, selected)


def leave_out_as(tree: Any, partial: Any) -> Any:
    """Replace each leaf of `tree` by a hole, `optax.MaskedNode()`, where `partial` has a hole."""
    return jax.tree.map(lambda p, x: p if _is_hole(p) else x, partial, tree, is_leaf=_is_hole)


def fill_in(partial: Any, whole: Any) -> Any:
    """Replace each hole, `optax.MaskedNode()`, in `partial` by the corresponding leaf of `whole`."""
    return jax.tree.map(lambda p, x: x if _is_hole(p) else p, partial, whole, is_leaf=_is_hole)


def _is_hole(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _sum_over_parts(
    function: Callable[[Any, Any, jax.Array], tuple[Any, Any]], carry: Any, batch: Any, parts: int
) -> tuple[Any, Any]:
    """Call `function(carry, part, index) -> (carry, values)` on each micro-batch in turn, and sum the values.

    Each micro-batch consists of every `parts`-th example of the batch. Under `jit` over a mesh, each device therefore
    has a shard of each micro-batch. If `parts` does not divide N, the last micro-batch is shorter, or there are fewer
    than `parts` micro-batches.

    Args:
      function: function of a carry, a micro-batch and the index of the micro-batch. The values that `function` returns
        must be sums over examples.
      carry: value that is passed from one call of `function` to the next.
      batch: a pytree of arrays `[N, ...]` with N examples.
      parts: number of micro-batches, at least 2.

    Returns:
      The carry after the last call, and the sum of the values.
    """
    examples = len(jax.tree.leaves(batch)[0])
    size = -(-examples // parts)
    even = examples // size
    stacked = jax.tree.map(lambda x: x[: even * size].reshape(size, even, *x.shape[1:]).swapaxes(0, 1), batch)
    rest = jax.tree.map(lambda x: x[even * size :], batch)

    def one(carry_and_total: Any, index_and_part: Any) -> tuple[Any, None]:
        (carry, total), (index, part) = carry_and_total, index_and_part
        carry, values = function(carry, part, index)
        return (carry, jax.tree.map(jnp.add, total, values)), None

    first = jax.tree.map(lambda x: x[0], stacked)
    shapes = jax.eval_shape(function, carry, first, jnp.zeros((), jnp.int32))[1]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (carry, total), _ = jax.lax.scan(one, (carry, zero), (jnp.arange(even), stacked))
    if examples % size:
        (carry, total), _ = one((carry, total), (jnp.asarray(even), rest))
    return carry, total
