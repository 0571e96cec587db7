"""Lookahead: every few steps the slow network follows the fast one, which starts again from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Sequential
from jaxcnn.train import Config, LookaheadConfig, create_state, make_eval_step, make_train_step
from jaxcnn.train.config import validate
from jaxcnn.train.optim.lookahead import Lookahead, growing_lookahead
from jaxcnn.train.state import evaluation_variables


def constant(decay):
    return Lookahead(3, lambda made: jnp.float32(decay))


def test_parameters_are_those_of_optax():
    """Optax starts the slow parameters at the same place, and steps towards the fast ones by `1 - decay`."""
    target = jnp.array([3.0, -2.0])
    params = {"w": jnp.array([1.0, 1.0])}
    theirs = optax.lookahead(optax.sgd(0.2), sync_period=3, slow_step_size=0.4)
    both, state = optax.LookaheadParams.init_synced(params), theirs.init(optax.LookaheadParams.init_synced(params))
    slow = fast = params
    for step in range(10):
        updates, state = theirs.update({"w": both.fast["w"] - target}, state, both)
        both = optax.apply_updates(both, updates)
        fast = {"w": fast["w"] - 0.2 * (fast["w"] - target)}
        slow, fast = constant(0.6).update(slow, fast, jnp.int32(step))
        np.testing.assert_allclose(fast["w"], both.fast["w"], rtol=1e-6)
        np.testing.assert_allclose(slow["w"], both.slow["w"], rtol=1e-6)


def test_the_fraction_that_is_kept_grows_with_the_run():
    lookahead = growing_lookahead(5, decay=0.8, power=2.0, steps=100)
    assert lookahead is not None
    np.testing.assert_allclose([lookahead.decay(jnp.int32(made)) for made in (50, 100)], [0.2, 0.8], rtol=1e-6)
    assert growing_lookahead(0, decay=0.8, power=2.0, steps=100) is None


def test_a_step_averages_statistics_too_and_the_slow_network_is_tested():
    model, optimizer = Sequential([Conv(4, 3), BatchNorm(), lambda x: x.mean((1, 2))]), optax.sgd(0.1)
    step = jax.jit(make_train_step(model, optimizer, lookahead=constant(0.6)))
    plain = jax.jit(make_train_step(model, optimizer))
    random = np.random.default_rng(0)
    batch = {"image": random.normal(size=(8, 6, 6, 1)).astype(np.float32), "label": np.arange(8) % 4}
    states = [create_state(model, optimizer, (6, 6, 1), seed=0, averaged=True)]
    for _ in range(3):
        states.append(step(states[-1], batch)[0])
    start, before, after = states[0], states[2], states[3]
    jax.tree.map(np.testing.assert_array_equal, before.ema["params"], start.params)
    alone, _ = plain(before.replace(ema={}), batch)
    fast = {"params": alone.params, "batch_stats": alone.batch_stats}
    expected = jax.tree.map(lambda s, f: 0.6 * s + 0.4 * f, before.ema, fast)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, expected)
    jax.tree.map(np.testing.assert_array_equal, after.ema["params"], after.params)
    jax.tree.map(np.testing.assert_array_equal, after.ema["batch_stats"], after.batch_stats)
    assert evaluation_variables(after) is after.ema
    assert np.isfinite(make_eval_step(model)(after, (batch, np.ones(8, bool)))["loss"])


def test_moving_averages_and_lookahead_exclude_each_other():
    with pytest.raises(
        UsageError,
        match=r"ema_decay and lookahead\.period are mutually exclusive, got ema_decay 0\.9 "
        "and",
    ):
        validate(Config(ema_decay=0.9, lookahead=LookaheadConfig(5)))
