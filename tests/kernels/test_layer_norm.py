"""Layer normalization is its definition in every form, and its derivatives are those of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import kernels
from jaxcnn.kernels import native

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def made(shape=(2, 14, 15, 70), dtype="float32"):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(3.0, 2.0, shape), dtype)
    scale, bias = (jnp.asarray(random.normal(size=shape[-1]), "float32") for _ in range(2))
    return x, scale, bias


def ours(x, scale, bias):
    return kernels.layer_norm(x, scale, bias, epsilon=1e-6, dtype=x.dtype)


def defined(x, scale, bias):
    wide = x.astype(scale.dtype)
    centered = wide - wide.mean(-1, keepdims=True)
    y = centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-6)
    return (y * scale + bias).astype(x.dtype)


def exact(function, *operands):
    """Return what a function computes in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(np.asarray(x, np.float64)) for x in operands)))


def check(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(np.asarray(a, np.float64) - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("choice", ["xla", "auto"])
@pytest.mark.parametrize("shape", [(2, 14, 15, 70), (512, 33), (16, 1024)])
def test_output_and_gradients_are_those_of_the_definition(shape, choice, dtype):
    x, scale, bias = made(shape, dtype)
    weights = jax.random.normal(jax.random.key(0), shape)

    def loss(function):
        return lambda *a: (weights * function(*a)).sum()

    with kernels.use(choice):
        y = jax.jit(ours)(x, scale, bias)
        gradients = jax.jit(jax.grad(loss(ours), (0, 1, 2)))(x, scale, bias)
    assert y.dtype == gradients[0].dtype == dtype
    assert gradients[1].dtype == "float32"
    check(y, exact(defined, x, scale, bias), TOLERANCE[dtype])
    check(gradients, exact(jax.grad(loss(defined), (0, 1, 2)), x, scale, bias), 2 * TOLERANCE[dtype])


@pytest.mark.skipif(not native.is_available(), reason="needs the native library")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_native_form_is_called_where_the_data_are_large(dtype):
    def text(shape):
        return jax.jit(jax.grad(lambda *a: ours(*a).sum(), (0, 1, 2))).lower(*made(shape, dtype)).as_text()

    assert native.LAYER_NORM in text((512, 33))
    assert native.LAYER_NORM_GRADIENT in text((512, 33))
    assert native.LAYER_NORM not in text((4, 33))


def test_tangents_and_second_derivatives():
    x, scale, bias = made((3, 4, 5))

    def curved(function):
        return lambda *a: jnp.sin(function(*a)).sum()

    check(
        jax.hessian(curved(ours), (0, 1))(x, scale, bias),
        exact(jax.hessian(curved(defined), (0, 1)), x, scale, bias),
        1e-4,
    )
    tangent = jax.jvp(ours, (x, scale, bias), (x * x, bias, scale))
    check(tangent, exact(lambda *a: jax.jvp(defined, a, (a[0] * a[0], a[2], a[1])), x, scale, bias), 1e-5)


@pytest.mark.parametrize("in_axes", [(0, None, None), (1, 0, None), (None, 0, 0)])
def test_a_mapped_axis(in_axes):
    x, scale, bias = made((2, 3, 4))
    operands = [
        a if axis is None else jnp.stack([a, 2 * a, a + 1], axis)
        for a, axis in zip((x, scale, bias), in_axes, strict=True)
    ]
    for function in (lambda f: f, lambda f: jax.grad(lambda *a: jnp.square(f(*a)).sum(), (0, 1, 2))):
        found = jax.jit(jax.vmap(function(ours), in_axes))(*operands)
        check(found, exact(jax.vmap(function(defined), in_axes), *operands), 1e-5)
