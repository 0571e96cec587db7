"""Dropout: identity while testing, and the right share of zeros while training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import Dropout, StochasticDepth
from jaxcnn.models import create_model


def drop(rate, x, seed=0):
    return Dropout(rate).apply({}, jnp.asarray(x), train=True, rngs={"dropout": jax.random.key(seed)})


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_does_nothing_while_testing(rate, seed):
    x = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=False), x)


@given(st.floats(0.05, 0.95), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_leaves_out_the_rate_and_scales_up_the_rest(rate, seed):
    x = np.random.default_rng(seed).uniform(1, 2, (100, 20, 20)).astype(np.float32)  # no zeros of its own
    y = np.asarray(drop(rate, x, seed))
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-5)
    sigma = np.sqrt(rate * (1 - rate) / x.size)
    assert abs((~kept).mean() - rate) < 4.5 * sigma
    # The expected input of the next layer is the same as at test time.
    assert abs(y.mean() - x.mean()) < 4.5 * 2 * sigma / (1 - rate)


def test_units_are_left_out_independently():
    left_out = np.asarray(drop(0.5, np.ones((64, 512)))) == 0
    # Across examples and across units: no two rows and no two columns agree more than chance has them.
    for masks in (left_out, left_out.T):
        agreement = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
        assert np.abs(agreement).max() < 6 / np.sqrt(masks.shape[1])


def test_a_rate_of_zero_is_the_identity_and_needs_no_key():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


def test_the_key_decides():
    x = np.ones(200, np.float32)
    np.testing.assert_array_equal(drop(0.5, x, 1), drop(0.5, x, 1))
    assert (drop(0.5, x, 1) != drop(0.5, x, 2)).any()


def test_gradient_reaches_only_the_units_that_stay():
    x = np.linspace(1, 2, 50, dtype=np.float32)
    gradient = jax.grad(lambda x: drop(0.4, x).sum())(x)
    np.testing.assert_allclose(gradient, np.where(drop(0.4, x) != 0, 1 / 0.6, 0), rtol=1e-5)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keeps_the_dtype(dtype, train):
    y = Dropout(0.3).apply({}, jnp.ones(8, dtype), train=train, rngs={"dropout": jax.random.key(0)})
    assert y.dtype == dtype


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_the_interval_is_refused(rate, train):
    with pytest.raises(UsageError, match=r"rate in \[0, 1\)") as error:
        Dropout(rate).apply({}, jnp.ones(3), train=train, rngs={"dropout": jax.random.key(0)})
    assert "\n" not in str(error.value)


def drop_branches(x, seed=0, **fields):
    return np.asarray(StochasticDepth(0.3, **fields).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)}))


def test_whole_examples_are_dropped_and_the_mean_is_kept():
    x = jnp.ones((4000, 2, 2, 3))
    each = drop_branches(x).reshape(4000, -1)
    assert (each == each[:, :1]).all()  # an example's branch is there as a whole, or not at all
    np.testing.assert_allclose(np.unique(each), [0.0, 1 / 0.7], rtol=1e-6)
    assert abs(each[:, 0].mean() - 1.0) < 0.04
    np.testing.assert_array_equal(StochasticDepth(0.3).apply({}, x, train=False), x)


def test_whole_batches_are_dropped_and_the_mean_is_kept():
    x = jnp.ones((5, 2, 3))
    batches = np.stack([drop_branches(x, seed, mode="batch") for seed in range(200)])
    assert (batches == batches[:, :1, :1, :1]).all()
    np.testing.assert_allclose(np.unique(batches), [0.0, 1 / 0.7], rtol=1e-6)
    assert abs((batches[:, 0, 0, 0] == 0).mean() - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 200)
    np.testing.assert_array_equal(StochasticDepth(0.3, "batch").apply({}, x, train=False), x)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_an_impossible_rate_is_refused(mode):
    with pytest.raises(UsageError, match=r"StochasticDepth needs a rate in \[0, 1\)"):
        StochasticDepth(1.0, mode).apply({}, jnp.ones((1, 2)), train=True)


def test_an_unknown_mode_is_refused_with_the_closest_valid_name():
    with pytest.raises(UsageError, match="did you mean 'batch'"):
        StochasticDepth(0.5, "bach").apply({}, jnp.ones((1, 2)), train=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact_resnet110_cifar"])
def test_deeper_blocks_are_dropped_more_often(name):
    model = create_model(name, 10, stage_sizes=(1, 1, 2), drop_path_rate=0.4)
    rates = []

    def watch(next_call, args, kwargs, context):
        if isinstance(context.module, StochasticDepth):
            rates.append(context.module.rate)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
