"""Channel shuffle and layer scale against their definitions, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import ChannelShuffle, LayerScale


@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (2, 6), (3, 6), (6, 6), (4, 12)])
def test_a_shuffle_deals_the_channels_of_each_group_in_turn(groups, channels):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, channels)).astype(np.float32)
    y = np.asarray(ChannelShuffle(groups)(jnp.asarray(x)))
    size = channels // groups
    for group in range(groups):
        for index in range(size):
            np.testing.assert_array_equal(y[..., index * groups + group], x[..., group * size + index])


def test_a_shuffle_by_the_other_factor_restores_the_order():
    x = jnp.arange(24).reshape(2, 12)
    np.testing.assert_array_equal(ChannelShuffle(4)(ChannelShuffle(3)(x)), x)
    assert not (ChannelShuffle(3)(x) == x).all()


@pytest.mark.parametrize("groups", [0, 4, 1.5, -2])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(UsageError, match=r"divides the input's 6 channels, got "):
        ChannelShuffle(groups)(jnp.ones((1, 6)))


def test_layer_scale_multiplies_each_channel_and_starts_at_its_initial_value():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    y, variables = LayerScale(1e-6).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, 1e-6 * x, rtol=1e-6)
    assert {leaf.shape for leaf in jax.tree.leaves(variables)} == {(5,)}
    gamma = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(LayerScale().apply({"params": {"gamma": gamma}}, x), x * gamma)


@pytest.mark.parametrize(("dtype", "expected"), [(None, "bfloat16"), (jnp.float32, "float32")])
def test_layer_scale_computes_in_its_dtype_and_keeps_a_float32_parameter(dtype, expected):
    y, variables = LayerScale(0.5, dtype=dtype).init_with_output(jax.random.key(0), jnp.ones((1, 4), jnp.bfloat16))
    assert y.dtype == expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
