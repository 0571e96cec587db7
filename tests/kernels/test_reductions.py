"""Sums over everything but channels: their values, derivatives of any order and kind, and where they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import native
from jaxcnn.kernels.reductions import LEAST_VALUES, channel_sums, spread

SHAPES = [(2, 5, 3, 4), (40, 7), (3, 8, 8, 64), (2, 9, 9, 131), (8, 16, 16, 16), (1, 1, 1, 2100), (64, 6, 6, 40)]


def numbers(shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(sum(shape)), 4)
    u, x = (jax.random.normal(key, shape, dtype) + 2 for key in keys[:2])
    b, c = (jax.random.normal(key, shape[-1:]) + 1 for key in keys[2:])
    return u, x, b, c


def defined(u, x, b, c):
    axes = tuple(range(u.ndim - 1))
    return (u - b).sum(axes), ((u - b) * (x - c)).sum(axes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_the_definition(shape):
    u, x, b, c = numbers(shape)
    wanted = defined(*(np.asarray(a, np.float64) for a in (u, x, b, c)))
    for sums in (channel_sums(u, x, b, c), jax.jit(channel_sums)(u, x, b, c)):
        for ours, right in zip(sums, wanted, strict=True):
            np.testing.assert_allclose(ours, right, rtol=2e-6, atol=2e-6 * np.abs(right).max())


def test_sums_of_bfloat16_are_float32():
    u, x, b, c = numbers((4, 32, 32, 8), jnp.bfloat16)
    wanted = defined(*(np.asarray(a, np.float64) for a in (u, x, b, c)))
    for ours, right in zip(jax.jit(channel_sums)(u, x, b, c), wanted, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


def as_loss(function):
    """A number that is not linear in what the function gives."""
    return lambda *args: sum(jnp.sin(a / 50 + n).sum() for n, a in enumerate(jax.tree.leaves(function(*args))))


def spread_of(u, x, b, c):
    return spread(u, b, c, c**2)


def defined_spread(u, x, b, c):
    return (u - b) * c + c**2


@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 16)], ids=str)
@pytest.mark.parametrize(("function", "right"), [(channel_sums, defined), (spread_of, defined_spread)])
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(function, right, shape):
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

    for a, b in zip(jax.tree.leaves(all_of(function)), jax.tree.leaves(all_of(right)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(b).max())


def variance(x, a):
    first, second = channel_sums(x, x, a, a)
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
        return jnp.square(spread(x, shift, factor, shift)).sum()

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


@pytest.mark.skipif(not native.is_used(), reason="there is no native library here")
def test_one_pass_is_made_where_the_data_is_large_float32_and_on_one_device():
    def lowered(shape, dtype, sharding=None):
        u, x = (jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for _ in range(2))
        c = jax.ShapeDtypeStruct(shape[-1:], jnp.float32)
        return native.CHANNEL_SUMS in jax.jit(channel_sums).lower(u, x, c, c).as_text()

    large, small = (8, LEAST_VALUES // 64, 8), (8, LEAST_VALUES // 128, 8)
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    assert lowered(large, jnp.float32)
    assert not lowered(small, jnp.float32)
    assert not lowered(large, jnp.bfloat16)
    assert not lowered(large, jnp.float32, jax.NamedSharding(mesh, P("d")))
