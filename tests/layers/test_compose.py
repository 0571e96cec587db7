"""How layers are joined."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Concat, Conv, Dense, Dropout, Flatten, ReLU, Residual, Sequential, ZeroPadShortcut

key = jax.random.key(0)
few = settings(deadline=None, max_examples=20, derandomize=True)


class AddOneWhileTraining(nn.Module):
    def __call__(self, x, *, train):
        return x + 1 if train else x


class Twice(nn.Module):
    def __call__(self, x):
        return 2 * x


def ten_more_while_training(x, train):
    return x + 10 if train else x


@pytest.mark.parametrize(("train", "expected"), [(False, 5.0), (True, 28.0)])
def test_sequential_applies_layers_in_order_and_tells_those_that_ask_for_train(train, expected):
    # While training: 3 -> 4 -> 14 -> 28 -> 29 -> 28. A layer that does not take `train` would refuse it.
    inner = Sequential([Twice(), AddOneWhileTraining()])
    net = Sequential([AddOneWhileTraining(), ten_more_while_training, inner, lambda x: x - 1])
    assert net.apply({}, 3.0, train=train) == expected


def test_sequential_tests_unless_told_to_train():
    assert Sequential([AddOneWhileTraining()]).apply({}, 3.0) == 3.0
    assert Residual(AddOneWhileTraining()).apply({}, jnp.ones(1)).tolist() == [2.0]
    assert Concat([AddOneWhileTraining()]).apply({}, jnp.ones(1)).tolist() == [1.0]


def test_an_empty_sequential_is_the_identity():
    assert Sequential([]).apply({}, 3.0) == 3.0


def test_sequential_is_function_composition_with_parameters_of_each_layer():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    net = Sequential([Dense(5), BatchNorm(), ReLU(), Dropout(0.5), Dense(2)])
    variables = net.init(key, x)
    assert set(variables["params"]) == {"layers_0", "layers_1", "layers_4"}
    first, last = variables["params"]["layers_0"]["kernel"], variables["params"]["layers_4"]["kernel"]
    expected = np.maximum(np.asarray(x) @ first / np.sqrt(1 + 1e-5), 0) @ last
    np.testing.assert_allclose(net.apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    trained, updates = net.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    assert np.abs(trained - expected).max() > 0.01
    assert np.abs(updates["batch_stats"]["layers_1"]["mean"]).max() > 0


@given(st.integers(0, 2**32 - 1))
@few
def test_residual_adds_its_input(seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(Residual(lambda x: x * x).apply({}, jnp.asarray(x)), x * x + x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_residual_and_concat_tell_both_sides_whether_they_train(train):
    x, more = jnp.ones((1, 2)), 1.0 if train else 0.0
    y = Residual(AddOneWhileTraining(), ten_more_while_training).apply({}, x, train=train)
    np.testing.assert_array_equal(y, np.full((1, 2), 2 + 11 * more))
    y = Concat([AddOneWhileTraining(), Twice(), ten_more_while_training]).apply({}, x, train=train)
    np.testing.assert_array_equal(y, [[1 + more] * 2 + [2] * 2 + [1 + 10 * more] * 2])


def zero_padded(x, features, strides):
    """Option A, cell by cell."""
    rows, columns = (-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True))
    y = np.zeros((x.shape[0], rows, columns, features))
    for n, i, j, c in np.ndindex(x.shape[0], rows, columns, x.shape[3]):
        y[n, i, j, c] = x[n, i * strides[0], j * strides[1], c]
    return y


@given(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)),
    st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
@few
def test_option_a_takes_every_other_pixel_and_pads_channels_with_zeros(shape, strides, more, seed):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    steps = (strides, strides) if isinstance(strides, int) else strides
    y = ZeroPadShortcut(shape[3] + more, strides)(jnp.asarray(x))
    np.testing.assert_array_equal(y, zero_padded(x, shape[3] + more, steps))


def test_residual_with_option_a():
    x = np.random.default_rng(1).normal(size=(1, 5, 7, 2)).astype(np.float32)
    body = Conv(3, 3, strides=2, padding=1)
    block = Residual(body, ZeroPadShortcut(3, 2))
    y, variables = block.init_with_output(key, x)
    inside = body.apply({"params": variables["params"]["body"]}, x)
    np.testing.assert_allclose(y, inside + zero_padded(x, 3, (2, 2)), rtol=1e-5, atol=1e-5)


def test_residual_with_option_b():
    x = np.random.default_rng(2).normal(size=(1, 5, 7, 2)).astype(np.float32)
    body = Conv(3, 3, strides=2, padding=1)
    block = Residual(body, Conv(3, 1, strides=2, use_bias=False))
    y, variables = block.init_with_output(key, x)
    inside = body.apply({"params": variables["params"]["body"]}, x)
    projection = variables["params"]["shortcut"]["kernel"][0, 0]
    np.testing.assert_allclose(y, inside + x[:, ::2, ::2] @ projection, rtol=1e-5, atol=1e-5)


def test_residual_refuses_summands_that_differ_even_if_they_would_broadcast():
    x = jnp.ones((1, 4, 4, 2))
    for body in (Conv(1, 1), Conv(2, 4), Conv(3, 3)):
        with pytest.raises(
            UsageError,
            match=r"Residual cannot add outputs of different shapes: body \[1, .* shortcut \[1, 4, 4, 2\]\. Use",
        ):
            Residual(body).init(key, x)


@given(st.permutations([1, 2, 3]), st.sampled_from([-1, 3]))
@few
def test_concat_joins_channels_in_the_order_of_its_branches(factors, axis):
    x = np.random.default_rng(3).normal(size=(2, 2, 3, 2)).astype(np.float32)
    y = Concat([lambda x, by=by: x * by for by in factors], axis).apply({}, jnp.asarray(x))
    assert y.shape == (2, 2, 3, 6)
    for place, by in enumerate(factors):
        np.testing.assert_array_equal(y[..., 2 * place : 2 * place + 2], x * np.float32(by))


def test_concat_along_another_axis_and_with_widths_that_differ():
    x = jnp.arange(12.0).reshape(1, 2, 2, 3)
    assert Concat([lambda x: x, lambda x: x[:, :1]], axis=1).apply({}, x).shape == (1, 3, 2, 3)
    dense = Concat([lambda x: x, lambda x: -x[..., :1]]).apply({}, x)
    np.testing.assert_array_equal(dense[0, 1, 0], [6, 7, 8, -6])


def test_concat_refuses_what_cannot_be_joined():
    x = jnp.ones((1, 4, 4, 2))
    with pytest.raises(UsageError, match="at least one branch"):
        Concat([]).apply({}, x)
    with pytest.raises(UsageError, match=r"\[1, 4, 4, 2\], \[1, 3, 3, 2\] along axis -1"):
        Concat([lambda x: x, lambda x: x[:, 1:, 1:]]).apply({}, x)
    with pytest.raises(UsageError, match="along axis 1"):
        Concat([lambda x: x, lambda x: x[..., :1]], axis=1).apply({}, x)


@given(st.tuples(*[st.integers(1, 4)] * 4))
@few
def test_flatten_goes_row_by_row_channels_fastest(shape):
    _, height, width, channels = shape
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    y = np.asarray(Flatten()(jnp.asarray(x)))
    assert y.shape == (shape[0], height * width * channels)
    for n, i, j, c in np.ndindex(shape):
        assert y[n, (i * width + j) * channels + c] == x[n, i, j, c]
