"""Activations against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcnn.layers import (
    GELU,
    HardSigmoid,
    HardSwish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    hard_sigmoid,
    hard_swish,
    relu,
    relu6,
    sigmoid,
    silu,
)

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
def test_relu6(x):
    np.testing.assert_array_equal(ReLU6()(jnp.asarray(x)), np.clip(x, 0, 6))
    slope = jax.grad(lambda x: ReLU6()(x).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(slope, (x > 0) & (x < 6))


@given(values)
@few
def test_silu(x):
    wide = x.astype(np.float64)
    np.testing.assert_allclose(SiLU()(jnp.asarray(x)), wide / (1 + np.exp(-wide)), **in_float32)


@given(values)
@few
def test_hard_sigmoid_and_hard_swish(x):
    wide = x.astype(np.float64)
    lines = np.clip(wide + 3, 0, 6) / 6
    np.testing.assert_allclose(HardSigmoid()(jnp.asarray(x)), lines, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(HardSwish()(jnp.asarray(x)), wide * lines, rtol=1e-5, atol=1e-5)
    slope = jax.grad(lambda x: HardSwish()(x).sum())(jnp.asarray(x))
    expected = np.where(wide <= -3, 0, np.where(wide < 3, wide / 3 + 0.5, 1))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_bounded_activations_do_not_pass_gradients_at_their_bounds():
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu6))(jnp.array([0.0, 6.0])), [0, 0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(hard_sigmoid))(jnp.array([-3.0, 3.0])), [0, 0])


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (relu, ReLU()),
        (relu6, ReLU6()),
        (sigmoid, Sigmoid()),
        (silu, SiLU()),
        (hard_sigmoid, HardSigmoid()),
        (hard_swish, HardSwish()),
    ],
)
def test_functions_are_those_of_the_layers(function, layer):
    x = jnp.linspace(-8, 8, 33)
    np.testing.assert_array_equal(function(x), layer(x))


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
@pytest.mark.parametrize(
    "layer", [ReLU(), ReLU6(), Sigmoid(), SiLU(), HardSigmoid(), HardSwish(), Tanh(1.7159, 2 / 3), Softmax()], ids=repr
)
def test_keeps_shape_and_dtype_without_parameters(layer, dtype):
    y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3, 3, 4), dtype))
    assert (y.shape, y.dtype) == ((2, 3, 3, 4), dtype)
    assert not variables


SMOOTH = [(GELU(), lambda x: jax.nn.gelu(x, approximate=False)), (SiLU(), jax.nn.silu)]


@pytest.mark.parametrize(("layer", "reference"), SMOOTH, ids=["gelu", "silu"])
def test_smooth_activations_have_derivatives_of_all_orders(layer, reference):
    x = jnp.linspace(-8, 8, 65)
    for order in range(4):
        ours, theirs = layer.__call__, reference
        for _ in range(order):
            ours, theirs = jax.grad(ours), jax.grad(theirs)
        np.testing.assert_allclose(jax.vmap(ours)(x), jax.vmap(theirs)(x), atol=2e-6)
    tangents = jnp.cos(x)
    np.testing.assert_allclose(*(jax.jvp(f, (x,), (tangents,))[1] for f in (layer.__call__, reference)), atol=2e-6)


@pytest.mark.parametrize(("layer", "reference"), SMOOTH, ids=["gelu", "silu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_reverse_mode_of_smooth_activations_keeps_one_array(layer, reference, dtype):
    x = jnp.linspace(-8, 8, 65).astype(dtype)
    _, pull = jax.vjp(layer.__call__, x)
    assert [kept.shape for kept in jax.tree.leaves(pull)] == [x.shape]
    assert pull(x)[0].dtype == dtype


@pytest.mark.parametrize(("layer", "reference"), SMOOTH, ids=["gelu", "silu"])
def test_smooth_activations_in_bfloat16_are_rounded_once(layer, reference):
    x = jnp.linspace(-8, 8, 999).astype(jnp.bfloat16)
    exact = reference(x.astype(jnp.float32))
    np.testing.assert_allclose(layer(x).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
