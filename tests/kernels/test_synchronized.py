"""Statistics of a batch over devices: one message in each direction, in the dtype asked for, without losing digits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import synchronized
from jaxcnn.kernels.normalization import batch_norm
from jaxcnn.measure.probes.collectives import collectives

RATES = {"momentum": 0.9, "epsilon": 1e-5, "unbiased": True, "axis_name": "d"}
SHAPE = (16, 4, 4, 6)


def step(x, scale, bias, g, near=0.0, **options):
    """Return output, running mean and variance, and the gradients of x, scale and bias."""
    running = jnp.full(SHAPE[3], near), jnp.ones(SHAPE[3])

    def loss(x, scale, bias):
        y, mean, var = batch_norm(x, *running, scale, bias, **RATES | options)
        return (y * g).sum(), (y, mean, var)

    gradients, results = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
    return *results, *gradients


def over_devices(count=8, check=False, **options):
    """Return `step` over devices, whose results other than those of the shape of x have an axis of devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("d",))

    def one_part(x, scale, bias, g):
        y, mean, var, by_x, by_scale, by_bias = step(x, scale, bias, g, **options)
        return y, by_x, *(v[None] for v in (mean, var, by_scale, by_bias))

    specs = P("d"), P(), P(), P("d")
    return jax.jit(jax.shard_map(one_part, mesh=mesh, in_specs=specs, out_specs=P("d"), check_vma=check))


def operands(mean=0.0):
    """Return x, whose parts have different means and deviations, scale, bias and the cotangent of the output."""
    random = np.random.default_rng(0)
    x, g = random.normal(size=(2, *SHAPE)).astype(np.float32)
    parts = np.arange(SHAPE[0], dtype=np.float32).reshape(-1, 1, 1, 1) // 2
    scale, bias = random.uniform(0.5, 2, (2, SHAPE[3])).astype(np.float32)
    return mean + x * (1 + parts / 4) + parts, scale, bias, g


def expected(x, scale, bias, g):
    """Return what `over_devices` returns, with sums over devices in place of an axis, in float64."""
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    axes, count = (0, 1, 2), x[..., 0].size
    mean, var = x.mean(axes), x.var(axes)
    r = 1 / np.sqrt(var + 1e-5)
    z = (x - mean) * r
    by_x = scale * r * (g - g.mean(axes) - z * (g * z).mean(axes))
    return z * scale + bias, by_x, 0.1 * mean, 0.9 + 0.1 * var * count / (count - 1), (g * z).sum(axes), g.sum(axes)


def assert_as_expected(found, right, tolerance):
    y, by_x, mean, var, by_scale, by_bias = found
    for value in (mean, var):
        np.testing.assert_array_equal(value, np.broadcast_to(value[:1], value.shape))
    ours = y, by_x, mean[0], var[0], by_scale.sum(0), by_bias.sum(0)
    for value, target in zip(ours, right, strict=True):
        np.testing.assert_allclose(value, target, rtol=tolerance, atol=tolerance * np.abs(target).max())


@pytest.mark.parametrize("check", [False, True])
def test_statistics_and_gradients_are_those_of_the_whole_batch(check):
    given = operands()
    y, by_x, mean, var, by_scale, by_bias = over_devices(check=check)(*given)
    if check:  # JAX has summed the gradients of what does not vary
        by_scale, by_bias = by_scale[:1], by_bias[:1]
    assert_as_expected((y, by_x, mean, var, by_scale, by_bias), expected(*given), 1e-5)


def test_more_devices_than_are_gathered_from(monkeypatch):
    monkeypatch.setattr(synchronized, "MOST_GATHERED", 4)
    given = operands()
    batch_norm.clear_cache()
    for options, tolerance, messages in (({}, 1e-5, 3), ({"reduce_dtype": "bfloat16"}, 3e-2, 2)):
        compiled = over_devices(**options).lower(*given).compile()
        assert [message.kind for message in collectives(compiled)] == ["all-reduce"] * messages
        assert_as_expected(compiled(*given), expected(*given), tolerance)
    batch_norm.clear_cache()


@pytest.mark.parametrize(
    ("x_dtype", "reduce_dtype", "expected"),
    [
        ("float32", "float32", {"all_gather": ["3x6xf32"], "reduce_scatter": ["8x3x6xf32"]}),
        ("bfloat16", "float32", {"all_reduce": ["2x6xf32"] * 2}),
        ("float32", "bfloat16", {"all_reduce": ["2x6xbf16"] * 2}),
        ("bfloat16", "bfloat16", {"all_reduce": ["2x6xbf16"] * 2}),
    ],
)
def test_one_message_forward_and_one_backward(x_dtype, reduce_dtype, expected):
    x, *others = operands()
    traced = over_devices(reduce_dtype=reduce_dtype).trace(jnp.asarray(x, x_dtype), *others)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    for name in ("all_gather", "reduce_scatter", "all_reduce"):
        found = re.findall(rf'"stablehlo.{name}".*?: \(tensor<(\w+)>\) -> tensor', text, re.DOTALL)
        assert [shape.removeprefix("1x") for shape in found] == expected.get(name, [])


def test_bfloat16_is_near_where_the_running_mean_is():
    given = operands(mean=100.0)
    found = over_devices(reduce_dtype="bfloat16", near=103.0)(*given)
    right = expected(*given)
    y, by_x, mean, var, *_ = found
    assert np.abs(y - right[0]).max() < 0.05
    assert np.abs(by_x - right[1]).max() < 0.05 * np.abs(right[1]).max()
    # Where each device sends its mean itself, the mean has 8 bits: an error of up to 0.25.
    np.testing.assert_allclose(10 * (mean[0] - 0.9 * 103), 10 * right[2], atol=0.1)
    np.testing.assert_allclose(var[0], right[3], rtol=0.02)


def test_forward_mode_and_second_derivatives_agree_with_one_device():
    given = operands()
    x, scale, bias, g = given
    mesh = Mesh(np.array(jax.devices()), ("d",))

    def of_parts(function):
        mapped = jax.shard_map(function, mesh=mesh, in_specs=(P("d"), P("d")), out_specs=P("d"), check_vma=False)
        return jax.jit(mapped)

    def normalized(x):
        return batch_norm(x, bias, scale, scale, bias, **RATES)[0]

    def tangent(x, u):
        return jax.jvp(normalized, (x,), (u,))[1]

    def product(x, u):
        """The derivative of `J(x)^T J(x) u` in the direction u."""
        return jax.jvp(lambda x: jax.vjp(normalized, x)[1](tangent(x, u))[0], (x,), (u,))[1]

    for function in (tangent, product):
        right = jax.jit(function)(x, g)  # the axis is unbound here
        np.testing.assert_allclose(of_parts(function)(x, g), right, rtol=1e-3, atol=1e-4 * np.abs(right).max())


def test_groups_are_summed_apart():
    given = operands()
    groups = ((0, 2, 4, 6), (1, 3, 5, 7))
    y, by_x, *_ = over_devices(axis_index_groups=groups)(*given)
    x, scale, bias, g = given
    for group in groups:
        places = np.concatenate([np.arange(2 * d, 2 * d + 2) for d in group])
        right = expected(x[places], scale, bias, g[places])
        np.testing.assert_allclose(y[places], right[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(by_x[places], right[1], rtol=1e-4, atol=1e-4)
