"""Activations against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcnn.layers import ReLU, Sigmoid, Softmax, Tanh

values = hnp.arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32, allow_subnormal=False))
in_float32 = {"rtol": 1e-5, "atol": 1e-7}
few = settings(deadline=None, max_examples=25, derandomize=True)


@given(values)
@few
def test_relu(x):
    np.testing.assert_array_equal(ReLU()(jnp.asarray(x)), np.where(x > 0, x, 0))
    slope = jax.grad(lambda x: ReLU()(x).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(slope, x > 0)


@given(values)
@few
def test_sigmoid(x):
    np.testing.assert_allclose(Sigmoid()(jnp.asarray(x)), 1 / (1 + np.exp(-x.astype(np.float64))), **in_float32)


@given(values, st.floats(0.5, 2), st.floats(0.5, 2))
@few
def test_tanh(x, scale, slope):
    wide = x.astype(np.float64)
    plain = (np.exp(wide) - np.exp(-wide)) / (np.exp(wide) + np.exp(-wide))
    np.testing.assert_allclose(Tanh()(jnp.asarray(x)), plain, **in_float32)
    scaled = scale * np.tanh(slope * wide)
    np.testing.assert_allclose(Tanh(scale, slope)(jnp.asarray(x)), scaled, **in_float32)
    np.testing.assert_allclose(Tanh(scale=scale)(jnp.asarray(x)), scale * plain, **in_float32)
    np.testing.assert_allclose(Tanh(slope=slope)(jnp.asarray(x)), np.tanh(slope * wide), **in_float32)


def test_tanh_of_1998_goes_through_one():
    np.testing.assert_allclose(Tanh(1.7159, 2 / 3)(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)


@given(values, st.sampled_from([0, 1, -1]))
@few
def test_softmax(x, axis):
    powers = np.exp(x.astype(np.float64))
    y = Softmax(axis)(jnp.asarray(x))
    np.testing.assert_allclose(y, powers / powers.sum(axis, keepdims=True), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_huge_values_saturate_and_do_not_overflow(size):
    x = jnp.array([-size, 0.0, size])
    np.testing.assert_array_equal(Softmax()(x), [0, 0, 1])
    np.testing.assert_array_equal(Softmax()(jnp.array([size, size])), [0.5, 0.5])
    np.testing.assert_array_equal(Sigmoid()(x), [0, 0.5, 1])
    np.testing.assert_array_equal(Tanh()(x), [-1, 0, 1])
    for layer in (Softmax(), Sigmoid(), Tanh()):
        slope = jax.grad(lambda x, layer=layer: layer(x)[0])(x)
        np.testing.assert_array_equal(slope, np.zeros(3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", [ReLU(), Sigmoid(), Tanh(1.7159, 2 / 3), Softmax()], ids=repr)
def test_keeps_shape_and_dtype_without_parameters(layer, dtype):
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3, 3, 4), dtype))
    assert (y.shape, y.dtype) == ((2, 3, 3, 4), dtype)
    assert not variables
