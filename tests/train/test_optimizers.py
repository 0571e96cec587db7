"""Optimizers and schedules by name do what their formulas say."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from jaxcnn.train.optimizers import DIRECTIONS

OPTAX = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.0),
}


def path(optimizer, steps=20):
    """Parameters at each step of minimising a bowl that is steeper in one direction."""
    params = {"kernel": jnp.array([[3.0, -2.0]]), "bias": jnp.array([1.0])}
    state, seen = optimizer.init(params), []
    for _ in range(steps):
        gradients = {"kernel": params["kernel"] * jnp.array([[1.0, 0.1]]), "bias": params["bias"]}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.concatenate([params["kernel"].ravel(), params["bias"]]))
    return np.array(seen)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_optimizers_agree_with_plain_optax(name):
    ours = make_optimizer(OptimizerConfig(name=name, weight_decay=0.0), optax.constant_schedule(0.1))
    np.testing.assert_allclose(path(ours), path(OPTAX[name]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_weight_decay_shrinks_kernels_and_leaves_biases_alone(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.1), optax.constant_schedule(0.1))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()
    assert (updates["bias"] == 0).all()


def test_adamw_decays_past_the_moments():
    # Decoupled: kernels shrink by learning rate x decay; through Adam's moments the size would be the learning rate.
    optimizer = make_optimizer(OptimizerConfig(name="adamw", weight_decay=0.1), optax.constant_schedule(0.1))
    params, zero = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros((2, 2))}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.01, rtol=1e-6)


def test_cosine_goes_from_the_peak_to_zero_by_its_formula():
    schedule = make_schedule(ScheduleConfig("cosine"), 0.2, steps=100, steps_per_epoch=10)
    steps = np.arange(101)
    expected = 0.2 * 0.5 * (1 + np.cos(np.pi * steps / 100))
    np.testing.assert_allclose([schedule(step) for step in steps], expected, atol=1e-7)


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_warmup_grows_linearly_and_then_hands_over_at_the_peak(name):
    schedule = make_schedule(ScheduleConfig(name, warmup_epochs=2), 0.2, steps=100, steps_per_epoch=10)
    np.testing.assert_allclose([schedule(step) for step in range(21)], 0.2 * np.arange(21) / 20, atol=1e-7)


def test_names_and_warmups_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        make_optimizer(OptimizerConfig(name="adm"), optax.constant_schedule(0.1))
    with pytest.raises(UsageError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        make_schedule(ScheduleConfig("cosin"), 0.1, 10, 1.0)
    with pytest.raises(UsageError, match="a warm-up of 10 steps leaves none of the run's 10"):
        make_schedule(ScheduleConfig("cosine", warmup_epochs=1), 0.1, 10, 10.0)
