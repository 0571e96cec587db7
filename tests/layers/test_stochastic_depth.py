"""Stochastic depth drops whole branches: of examples or of batches, and of late blocks more often."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import StochasticDepth
from jaxcnn.models import create_model


def drop(x, seed=0, **fields):
    return np.asarray(StochasticDepth(0.3, **fields).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)}))


def test_whole_examples_are_dropped_and_the_mean_is_kept():
    x = jnp.ones((4000, 2, 2, 3))
    each = drop(x).reshape(4000, -1)
    assert (each == each[:, :1]).all()  # an example's branch is there as a whole, or not at all
    np.testing.assert_allclose(np.unique(each), [0.0, 1 / 0.7], rtol=1e-6)
    assert abs(each[:, 0].mean() - 1.0) < 0.04
    np.testing.assert_array_equal(StochasticDepth(0.3).apply({}, x, train=False), x)


def test_whole_batches_are_dropped_and_the_mean_is_kept():
    x = jnp.ones((5, 2, 3))
    batches = np.stack([drop(x, seed, mode="batch") for seed in range(200)])
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
