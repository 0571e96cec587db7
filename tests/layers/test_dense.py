"""The fully connected layer against `y_j = sum_i W_ij x_i + b_j`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense


def fully_connected(x, kernel, bias):
    y = np.zeros((*x.shape[:-1], kernel.shape[1]))
    for at in np.ndindex(x.shape[:-1]):
        for j in range(kernel.shape[1]):
            y[(*at, j)] = bias[j] + sum(kernel[i, j] * x[(*at, i)] for i in range(kernel.shape[0]))
    return y


@given(
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(1, 8),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=25, derandomize=True)
def test_is_a_matrix_product_over_the_last_axis(leading, inputs, features, use_bias, seed):
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(*leading, inputs)), rng.normal(size=(inputs, features))
    bias = rng.normal(size=features) if use_bias else np.zeros(features)
    params = {"kernel": kernel} | ({"bias": bias} if use_bias else {})
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    y = Dense(features, use_bias=use_bias).apply({"params": params}, x.astype(np.float32))
    np.testing.assert_allclose(y, fully_connected(x, kernel, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters(use_bias):
    variables = jax.eval_shape(Dense(10, use_bias=use_bias).init, jax.random.key(0), jnp.zeros((2, 84)))
    shapes = {name: leaf.shape for name, leaf in variables["params"].items()}
    assert shapes == {"kernel": (84, 10)} | ({"bias": (10,)} if use_bias else {})


def test_computes_in_bfloat16_with_parameters_in_float32():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    y, variables = Dense(3, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    expected = fully_connected(x, np.asarray(variables["params"]["kernel"]), np.zeros(3))
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=0.05)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_the_gradient_of_the_kernel_has_the_dtype_of_the_parameters(param_dtype):
    layer = Dense(3, dtype=jnp.bfloat16, param_dtype=param_dtype)
    x = jnp.asarray([[256.0], [1.0]], jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda v: layer.apply(v, x).sum()))(variables)["params"]["kernel"]
    assert gradient.dtype == param_dtype
    assert (gradient == (257 if param_dtype == "float32" else 256)).all()


def test_weights_for_another_number_of_inputs_are_refused_in_one_line():
    variables = Dense(3, name="fc").init(jax.random.key(0), jnp.zeros((1, 8)))
    with pytest.raises(
        UsageError, match=r"^fc has weights for 8 inputs, got 12\. If the inputs are flattened feature maps, use"
    ):
        Dense(3, name="fc").apply(variables, jnp.zeros((1, 12)))
