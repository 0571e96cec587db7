"""Sums over everything except channels: values, derivatives of every order and mode, and where they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import native
from jaxcnn.kernels.reductions import LEAST_VALUES, affine, channel_sums, materialize, moments

SHAPES = [(2, 5, 3, 4), (40, 7), (3, 8, 8, 64), (2, 9, 9, 131), (8, 16, 16, 16), (1, 1, 1, 2100), (64, 6, 6, 40)]


def numbers(shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(sum(shape)), 4)
    u, x = (jax.random.normal(key, shape, dtype) + 2 for key in keys[:2])
    b, c = (jax.random.normal(key, shape[-1:]) + 1 for key in keys[2:])
    return u, x, b, c


def sums_of(u, x, b, c):
    return channel_sums((u - b).astype(u.dtype), x, c)  # sums of values around 0, whose rounding is small


def moments_of(u, x, b, c):
    return [total / x[..., 0].size for total in moments(x, c)]


def affine_of(u, x, b, c):
    return affine(b, c**2, u, c)


def defined_sums(u, x, b, c):
    axes = tuple(range(u.ndim - 1))
    return (u - b).sum(axes), ((u - b) * (x - c)).sum(axes)


def defined_moments(u, x, b, c):
    axes = tuple(range(u.ndim - 1))
    return (x - c).mean(axes), ((x - c) ** 2).mean(axes)


def defined_affine(u, x, b, c):
    return (u - c) * b + c**2


SUMS = pytest.mark.parametrize(("function", "definition"), [(sums_of, defined_sums), (moments_of, defined_moments)])


@SUMS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_the_definition(function, definition, shape):
    operands = numbers(shape)
    expected = definition(*(np.asarray(a, np.float64) for a in operands))
    for sums in (function(*operands), jax.jit(function)(*operands)):
        for actual, right in zip(sums, expected, strict=True):
            np.testing.assert_allclose(actual, right, rtol=2e-6, atol=2e-6 * np.abs(right).max())


@SUMS
def test_sums_of_bfloat16_are_float32(function, definition):
    u, x, b, c = numbers((4, 32, 32, 8), jnp.bfloat16)
    operands = u, x, jnp.zeros_like(b), c
    expected = definition(*(np.asarray(a, np.float64) for a in operands))
    for actual, right in zip(jax.jit(function)(*operands), expected, strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


def as_loss(function):
    """A scalar that is not linear in the function's results."""
    return lambda *args: sum(jnp.sin(a / 50 + n).sum() for n, a in enumerate(jax.tree.leaves(function(*args))))


@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 16)], ids=str)
@pytest.mark.parametrize(
    ("function", "definition"),
    [(sums_of, defined_sums), (moments_of, defined_moments), (affine_of, defined_affine)],
)
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(function, definition, shape):
    primals, tangents = numbers(shape), tuple(jnp.cos(a) for a in numbers(shape))

    def gradient(f):
        return jax.grad(as_loss(f), argnums=(0, 1, 2, 3))

    def all_of(f):
        return jax.jit(
            lambda *args: (
                jax.jvp(f, args, tangents),
                gradient(f)(*args),
                jax.jvp(gradient(f), args, tangents),
                jax.grad(as_loss(gradient(f)), argnums=(0, 1, 2, 3))(*args),
                jax.grad(as_loss(lambda *args: jax.jvp(f, args, tangents)), argnums=(0, 1, 2, 3))(*args),
            )
        )(*primals)

    for a, b in zip(jax.tree.leaves(all_of(function)), jax.tree.leaves(all_of(definition)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())


def variance(x, a):
    first, second = moments(x, a)
    return (second / x[..., 0].size - jnp.square(first / x[..., 0].size)).sum()


def test_a_sum_over_a_mapped_axis_is_a_sum_of_each():
    xs = jax.random.normal(jax.random.key(0), (3, 8, 16, 16, 16))
    a = jnp.ones(16)
    each = jnp.stack([jax.grad(variance)(x, a) for x in xs])
    np.testing.assert_allclose(jax.vmap(jax.grad(variance), (0, None))(xs, a), each, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(variance, (0, None))(xs, a), [variance(x, a) for x in xs], rtol=1e-5)


@pytest.mark.parametrize("how", ["pmap", "shard_map", "jit"])
def test_gradients_over_devices_are_those_of_one(how):
    devices = jax.devices()[:4]
    xs = jax.random.normal(jax.random.key(0), (4, 2, 32, 32, 16))
    factor, shift = jnp.linspace(1.0, 2.0, 16), jnp.ones(16)

    def loss(x, factor, shift):
        return jnp.square(affine(factor, shift, x, shift)).sum()

    gradient = jax.grad(loss, argnums=(1, 2))
    right = jax.tree.map(lambda a: a.sum(0), jax.vmap(gradient, (0, None, None))(xs, factor, shift))
    if how == "pmap":
        step = jax.pmap(lambda *a: jax.lax.psum(gradient(*a), "d"), "d", in_axes=(0, None, None), devices=devices)
        ours = jax.tree.map(lambda a: a[0], step(xs, factor, shift))
    else:
        mesh = Mesh(np.array(devices), ("d",))
        if how == "shard_map":  # which sums the gradients of what all devices have the same of
            step = jax.shard_map(gradient, mesh=mesh, in_specs=(P("d"), P(), P()), out_specs=P())
        else:
            step = gradient
        whole = jax.device_put(xs.reshape(8, 32, 32, 16), jax.NamedSharding(mesh, P("d")))
        ours = jax.jit(step)(whole, factor, shift)
    for a, b in zip(ours, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)


def test_materialize_is_the_identity_with_its_derivatives():
    x, tangent = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))

    def loss(x):
        return (materialize(x) ** 3).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), 3 * x**2)
    np.testing.assert_array_equal(jax.jvp(jax.grad(loss), (x,), (tangent,))[1], 6 * x)
    np.testing.assert_array_equal(jax.vmap(materialize)(x), x)
    assert "optimization_barrier" in jax.jit(materialize).lower(x).as_text()


@pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
def test_one_pass_is_made_where_the_data_is_large_float32_and_on_one_device():
    def lowered(shape, dtype, sharding=None):
        u, x = (jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for _ in range(2))
        c = jax.ShapeDtypeStruct(shape[-1:], jnp.float32)
        texts = [jax.jit(channel_sums).lower(u, x, c).as_text(), jax.jit(moments).lower(x, c).as_text()]
        found = {native.CHANNEL_SUMS in text for text in texts}
        assert len(found) == 1
        return found.pop()

    large, small = (8, LEAST_VALUES // 64, 8), (8, LEAST_VALUES // 128, 8)
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    assert lowered(large, jnp.float32)
    assert not lowered(small, jnp.float32)
    assert not lowered(large, jnp.bfloat16)
    assert not lowered(large, jnp.float32, jax.NamedSharding(mesh, P("d")))
