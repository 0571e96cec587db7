"""Trace the user's own model, loss and task with two examples, to find errors before the run starts."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError, closest, shortened, unknown_name
from jaxcnn.train import metrics
from jaxcnn.train.optim.adapters import needs_example_gradients
from jaxcnn.train.state import TrainState
from jaxcnn.train.step import make_eval_step, make_train_step
from jaxcnn.train.task import Classification, Task


def check_objects(task: Any, model: Any) -> None:
    """Raise `UsageError` if `task` or `model` is a class in place of an object, or has a wrong type. None is valid."""
    of_users = (("task", task, Task, "jaxcnn.train.Task"), ("model", model, nn.Module, "flax.linen.Module"))
    for name, part, base, path in of_users:
        if isinstance(part, type):
            raise UsageError(f"{name} is the class {part.__name__}. Pass an instance: {name}={part.__name__}(...)")
        if part is not None and not isinstance(part, base):
            raise UsageError(
                f"{name} must be an instance of {path}, got {type(part).__name__}. "
                f"Derive your class from {base.__name__}"
            )


def check_task(plan: Any) -> None:
    """Trace a training step and an evaluation of a run with two examples, before files are written.

    Raises:
      UsageError: if the task reads a key that the batch does not have, if it returns arrays of wrong shapes, or if it
        does not return the metric `plan.monitor`.
    """
    with readable_keys(plan.task, plan.example):
        _trace(plan)


@contextlib.contextmanager
def readable_keys(task: Task, example: Any) -> Iterator[None]:
    """Raise `UsageError` in place of the `KeyError` of a task that reads a key that the batch does not have.

    Args:
      task: the task whose methods the block calls.
      example: a batch of the data.
    """
    try:
        yield
    except KeyError as error:
        key, known = (error.args or (None,))[0], [*example] if isinstance(example, dict) else []
        if not known or key in known or not isinstance(key, str):
            raise
        near = closest(key, known)
        hint = f"Did you mean {near!r}?" if near else "Task.prepare can add keys."
        raise UsageError(
            f"task {type(task).__name__} reads the key {shortened(key)!r}, which its batch does not have. "
            f"Batches of the data have the keys {', '.join(map(repr, known))}. {hint}"
        ) from error


def _trace(plan: Any) -> None:
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype), plan.example)
    step: Any = make_train_step(plan.model, plan.optimizer, plan.task, gradient=plan.gradient)
    if not needs_example_gradients(plan.template.opt_state):
        jax.eval_shape(step, plan.template, batch)
    mask = jax.ShapeDtypeStruct((2,), bool)
    sums = jax.eval_shape(make_eval_step(plan.model, plan.task), plan.template, (batch, mask))
    ones = jax.tree.map(lambda total: np.ones(total.shape), sums)
    with np.errstate(all="ignore"):
        values = plan.summarize({**ones, "examples": 1})
    names = [name for name in metrics.numbers(values) if name != "examples"]
    if plan.monitor not in names:
        raise unknown_name("metric to monitor", plan.monitor, names)


def check_shapes(
    image_shape: tuple[int, ...], num_classes: int, model: nn.Module, template: TrainState, task: Classification
) -> None:
    """Raise `UsageError` if a custom model, loss or augmentation returns an array of a wrong shape."""
    variables = {"params": template.params, "batch_stats": template.batch_stats}
    key, image = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct(image_shape, jnp.uint8)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
    _check_shape("model", "two images", logits, (2, num_classes))
    _check_shape("loss", "two images", jax.eval_shape(task.test_loss or task.train_loss, logits, labels), (2,))
    if task.augment is not None:
        _check_shape("augment", "an image", jax.eval_shape(task.augment, key, image), image_shape)


def _check_shape(part: str, of: str, returned: Any, wanted: tuple[int, ...]) -> None:
    got = getattr(returned, "shape", None)
    if got != wanted:
        raise UsageError(f"{part} must return an array of shape {wanted} for {of}, got {got or type(returned)}")
