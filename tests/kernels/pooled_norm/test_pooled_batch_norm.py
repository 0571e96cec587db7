"""Batch normalization, ReLU and max pooling in one kernel: the form for TPUs, and derivatives of every order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import Windows, batch_norm, max_pool, pooled_batch_norm
from jaxcnn.kernels.normalization import BatchNorm
from jaxcnn.kernels.pooled_norm import PooledBatchNorm, PooledGradient

RATES = {"momentum": 0.8, "epsilon": 1e-3, "unbiased": True}
WINDOWS = {
    "3x3 at stride 2": Windows((3, 3), (2, 2), ((1, 1), (1, 1))),
    "3x3 at stride 2, beyond the image": Windows((3, 3), (2, 2), ((0, 1), (0, 1))),
    "2x2": Windows((2, 2), (2, 2), ((0, 0), (0, 0))),
    "3x2 at stride 1": Windows((3, 2), (1, 1), ((1, 0), (0, 1))),
}
STEM = WINDOWS["3x3 at stride 2"]
ALL = (0, 1, 2, 3, 4)


def operands(dtype="float32", shape=(3, 9, 8, 6)):
    """Return x, running mean and variance, scale and bias; scales have both signs, and one is 0."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(2 * rng.normal(size=shape) + 1, dtype)
    scale = np.resize([1.5, -0.7, 0.0, -2.0, 0.3, 1.0], shape[-1])
    vectors = rng.normal(size=shape[-1]), np.exp(rng.normal(size=shape[-1])), scale, rng.normal(size=shape[-1])
    return x, *(jnp.asarray(vector, jnp.float32) for vector in vectors)


def kernel(windows=STEM, dtype="float32"):
    return PooledBatchNorm(BatchNorm(**RATES, relu=True, dtype=jnp.dtype(dtype)), windows)


def composed(x, *vectors, windows=STEM):
    y, *running = batch_norm(x, *vectors, **RATES, relu=True, dtype=x.dtype)
    return max_pool(y, *windows), *running


def pooled(x, *vectors, windows=STEM):
    return pooled_batch_norm(x, *vectors, windows=windows, **RATES, dtype=x.dtype)


def on_tpu(x, *vectors, windows=STEM):
    """Return the same by the form for TPUs, which JAX differentiates itself."""
    return tuple(kernel(windows, x.dtype).tpu_form(x, *vectors)[:3])


def as_loss(function):
    """A scalar that is not linear in the function's results."""
    return lambda *args: sum(jnp.sin(a + n).sum() for n, a in enumerate(jax.tree.leaves(function(*args))))


def assert_close(ours, right, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tpu_computes_the_same_numbers(windows, dtype):
    values = operands(dtype)
    p, *others = jax.jit(kernel(windows, dtype).form)(*values)
    of_tpu, *others_of_tpu = jax.jit(kernel(windows, dtype).tpu_form)(*values)
    assert_close(of_tpu, p, 1e-6 if dtype == "float32" else 2**-8)
    assert_close(others_of_tpu[:-1], others[:-1], 1e-5)  # sums around another center


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_a_tpu_computes_the_same_gradients(windows):
    """A scale of 0 makes all places of a window equal, and its gradient that of any of them."""
    x, running_mean, running_var, scale, bias = operands()
    scale = jnp.where(scale == 0, -0.4, scale)
    p, _, _, mean, r, y = kernel(windows).form(x, running_mean, running_var, scale, bias)
    g = jnp.cos(jnp.arange(p.size)).reshape(p.shape)
    gradient = PooledGradient(windows, jnp.dtype("float32"))
    right = gradient.form(g, x, mean, r, scale, p, y)
    assert_close(gradient.tpu_form(g, x, mean, r, scale, p, y), right, 1e-5)
    assert_close(gradient.tpu_form(g, x, mean, r, scale, p, jnp.full_like(y, jnp.nan)), right, 1e-5)


def test_derivatives_of_first_and_second_order_are_those_of_the_composition():
    values = operands()
    dots = tuple(map(jnp.cos, values))

    def all_of(f):
        gradient = jax.grad(as_loss(f), ALL)
        return jax.jit(
            lambda *args: (
                f(*args),
                jax.jvp(f, args, dots),
                gradient(*args),
                jax.jvp(gradient, args, dots),
                jax.grad(as_loss(gradient), ALL)(*args),
                jax.grad(as_loss(lambda *args: jax.jvp(f, args, dots)), ALL)(*args),
            )
        )(*values)

    assert_close(all_of(pooled), all_of(composed), 2e-4)


def test_the_form_for_tpus_has_the_derivatives_of_the_composition():
    values = operands()
    values = (*values[:3], jnp.where(values[3] == 0, 0.9, values[3]), values[4])
    for of in (lambda f: jax.grad(as_loss(f), ALL), lambda f: lambda *a: jax.jvp(f, a, tuple(map(jnp.cos, a)))):
        assert_close(jax.jit(of(on_tpu))(*values), jax.jit(of(composed))(*values), 1e-4)


@pytest.mark.parametrize("argument", [0, 3])
def test_a_derivative_by_one_argument_is_that_by_all(argument):
    values = operands()

    def both(function):
        def of_one(value):
            return function(*values[:argument], value, *values[argument + 1 :])

        one = (values[argument],)
        return jax.jvp(of_one, one, one), jax.grad(as_loss(of_one))(*one)

    assert_close(jax.jit(lambda: both(pooled))(), jax.jit(lambda: both(composed))(), 1e-5)


def test_over_a_mapped_axis_each_batch_is_one_of_its_own():
    x, *vectors = operands()
    xs = jnp.stack([x, 2 * x + 1, x**2])
    for function in (pooled, jax.grad(as_loss(pooled), ALL)):
        each = jax.tree.map(lambda *a: jnp.stack(a), *(function(x, *vectors) for x in xs))
        assert_close(jax.vmap(function, (0, *[None] * 4))(xs, *vectors), each, 1e-5)


@pytest.mark.parametrize("axis_name", ["d", None])
def test_devices_share_statistics_if_they_are_asked_to(axis_name):
    x, *vectors = operands(shape=(4, 9, 8, 6))
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))

    def sharded(function):
        specs = {"in_specs": (P("d"), *[P()] * 4), "out_specs": (P("d"), P(), P())}
        return jax.jit(jax.shard_map(function, mesh=mesh, check_vma=False, **specs))

    def ours(x, *vectors):
        return pooled_batch_norm(x, *vectors, windows=STEM, **RATES, axis_name=axis_name)

    def apart(x, *vectors):
        y, *running = batch_norm(x, *vectors, **RATES, axis_name=axis_name, relu=True)
        return max_pool(y, *STEM), *running

    assert_close(sharded(ours)(x, *vectors), sharded(apart)(x, *vectors), 1e-6)


@pytest.mark.parametrize("x", [jnp.zeros((0, 8, 8, 6)), jnp.arange(384).reshape(1, 8, 8, 6)], ids=["empty", "integers"])
def test_arrays_that_are_no_images_of_numbers_are_normalized_apart(x):
    _, *vectors = operands()
    y, *_ = batch_norm(x, *vectors, **RATES, relu=True)
    np.testing.assert_array_equal(pooled_batch_norm(x, *vectors, windows=STEM, **RATES)[0], max_pool(y, *STEM))
