"""Check a task, a gradient and metrics of the user's on two examples, without computing anything."""

from typing import Any

import jax
import numpy as np

from jaxcnn.errors import unknown_name
from jaxcnn.train import metrics
from jaxcnn.train.optim.adapters import needs_example_gradients
from jaxcnn.train.step import make_eval_step, make_train_step


def check_task(plan: Any) -> None:
    """Trace a step and an evaluation of a run's plan on two examples, before anything is written.

    Raises:
      UsageError: If the task returns arrays of wrong shapes, or has no metric to monitor.
    """
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
