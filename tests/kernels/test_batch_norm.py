"""Batch normalization with a residual and a ReLU: values, derivatives, bfloat16, and where it is one native call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import native, use
from jaxcnn.kernels.normalization import batch_norm
from jaxcnn.kernels.reductions import LEAST_VALUES

SHAPES = [(4, 3, 3, 5), (40, 7), (16, 16, 16, 16), (2, 9, 9, 131), (3, 12, 12, 64), (2, 4, 4, 2100)]
RATES = {"momentum": 0.8, "epsilon": 1e-3, "unbiased": True}
BF16, F32 = jnp.bfloat16, jnp.float32
ROUNDING = {BF16: 2**-8, F32: 2e-5}  # half the distance between neighbors, or of float32 some of them
ALL = (0, 1, 2, 3)

choices = pytest.mark.parametrize("choice", ["xla", "native"] if native.is_available() else ["xla"])
dtypes = pytest.mark.parametrize("dtype", [BF16, F32], ids=["bfloat16", "float32"])
endings = pytest.mark.parametrize(("relu", "residual"), [(True, False), (True, True), (False, True), (False, False)])


def numbers(shape, dtype):
    """Return x, scale, bias and residual, of which x and residual are `[..., C]` in `dtype`, and a cotangent."""
    keys = jax.random.split(jax.random.key(sum(shape)), 5)
    x, residual, g = (jax.random.normal(key, shape) for key in keys[:3])
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[3:])
    return ((2 * x + 1).astype(dtype), scale + 1, bias, residual.astype(dtype)), g.astype(dtype)


def layer(x, scale, bias, residual, *, relu=True, with_residual=True, **options):
    """Return the output alone, in the dtype of x."""
    mean, var = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])
    added = residual if with_residual else None
    arguments = {**RATES, "residual": added, "relu": relu, "dtype": x.dtype, **options}
    return batch_norm(x, mean, var, scale, bias, **arguments)[0]


def defined(x, scale, bias, residual, *, relu=True, with_residual=True, output=None):
    """The definition. A ReLU's mask is that of `output`, which may be rounded to 0."""
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes)) / (x.var(axes) + RATES["epsilon"]) ** 0.5 * scale + bias
    y = y + residual if with_residual else y
    return jnp.where((y if output is None else output) > 0, y, 0) if relu else y


def exactly(function, *arrays):
    """Return the results of a function in float64."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a), jnp.float64) for a in arrays]
        return jax.tree.map(np.asarray, function(*wide))


def pulled_back(function):
    return lambda g, *operands: jax.vjp(function, *operands)[1](g)


def assert_near(ours, right, tolerance):
    """Relative to each value, and to the root mean square of each array."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
        wide = np.asarray(a, np.float64)
        scale = np.sqrt(np.square(b).mean()) + 1e-30
        np.testing.assert_allclose(wide, b, rtol=tolerance, atol=tolerance * scale)


@choices
@dtypes
@endings
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_definition_rounded_once(shape, relu, residual, dtype, choice):
    operands, g = numbers(shape, dtype)
    ending = {"relu": relu, "with_residual": residual}
    with use(choice):
        ours = jax.jit(functools.partial(layer, **ending))
        y = ours(*operands)
        by_x, by_scale, by_bias, by_residual = jax.jit(pulled_back(ours))(g, *operands)
    assert y.dtype == by_x.dtype == by_residual.dtype == dtype
    right = functools.partial(defined, **ending)
    assert_near(y, exactly(right, *operands), ROUNDING[dtype] + 2e-5)
    same_mask = functools.partial(right, output=np.asarray(y, np.float64))
    expected = exactly(pulled_back(same_mask), g, *operands)
    assert_near((by_x, by_residual), (expected[0], expected[3]), ROUNDING[dtype] + 2e-5)
    assert_near((by_scale, by_bias), expected[1:3], 2e-5)


@choices
@pytest.mark.parametrize("channels", [16, 36, 256])
def test_a_large_mean_takes_no_digits_of_bfloat16(channels, choice):
    """Means of about 1000, with the deviation of 1 that bfloat16 can hold there: its step is 4."""
    shape = (32, 16, 16, channels)
    x = jnp.asarray(1000 + 4 * np.random.default_rng(0).integers(-1, 2, shape), BF16)
    exact = np.asarray(x, np.float64)
    vectors = jnp.zeros(channels), jnp.ones(channels), None, None
    rates = {"momentum": 0.0, "epsilon": 1e-5, "unbiased": False, "relu": True, "dtype": BF16}
    with use(choice):
        y, mean, var = batch_norm(x, *vectors, **rates)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-5)
    right = np.maximum(exact - exact.mean((0, 1, 2)), 0) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    assert_near(y, right, 2**-8)


@choices
@dtypes
def test_zero_infinity_and_nan_pass_a_relu_as_in_jax(dtype, choice):
    """The gradient at 0 is 0, NaN is kept, and so is infinity."""
    x = jnp.tile(jnp.array([-1.0, 1.0], dtype), 2**10)[:, None] * jnp.ones((1, 32), dtype)
    residual = jnp.zeros(x.shape, dtype).at[0].set(jnp.nan).at[1].set(jnp.inf).at[2].set(-jnp.inf).at[4].set(1)
    scale, bias = jnp.zeros(32), jnp.zeros(32)  # the normalized x is 0
    with use(choice):
        y = layer(x, scale, bias, residual)
        by_residual = jax.grad(lambda r: layer(x, scale, bias, r).astype(F32)[3:].sum())(residual)
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.maximum(np.asarray(residual, np.float32), 0))
    np.testing.assert_array_equal(np.asarray(by_residual[3:], np.float32), np.asarray(residual[3:], np.float32))


@choices
@dtypes
@pytest.mark.parametrize("channels", [16, 48, 1024])
def test_repetition_gives_the_same_bits(channels, dtype, choice):
    operands, g = numbers((32, 16, 16, channels) if channels < 1024 else (8, 7, 7, channels), dtype)
    with use(choice):
        step = jax.jit(lambda g, *operands: (layer(*operands), pulled_back(layer)(g, *operands)))
        first = jax.tree.map(np.asarray, step(g, *operands))
        for _ in range(5):
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(step(g, *operands)), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
@dtypes
@endings
def test_native_and_xla_agree_within_rounding(relu, residual, dtype):
    operands, g = numbers((16, 16, 16, 16), dtype)
    step = functools.partial(layer, relu=relu, with_residual=residual)
    found = {}
    for choice in ("xla", "native"):
        with use(choice):
            found[choice] = jax.jit(lambda g, *operands: (step(*operands), pulled_back(step)(g, *operands)))(
                g, *operands
            )
    assert_near(found["native"], jax.tree.map(lambda a: np.asarray(a, np.float64), found["xla"]), 2 * ROUNDING[dtype])


def as_loss(function):
    """A scalar that is not linear in the function's result."""
    return lambda *operands: jnp.sin(function(*operands).astype(F32)).sum()


@choices
@endings
@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 32)], ids=str)
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(shape, relu, residual, choice):
    operands, _ = numbers(shape, F32)
    tangents = tuple(map(jnp.cos, operands))
    output = np.asarray(defined(*operands, relu=relu, with_residual=residual))

    def all_of(f, *operands):
        own = tuple(t.astype(a.dtype) for t, a in zip(tangents, operands, strict=True))
        gradient = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), ALL)
        squared = lambda *a: sum(jnp.square(part).sum() for part in jax.tree.leaves(gradient(*a)))  # noqa: E731
        return (
            jax.jvp(f, operands, own),
            jax.jvp(gradient, operands, own),
            jax.grad(squared, ALL)(*operands),
            jax.grad(lambda *a: jnp.sin(jax.jvp(f, a, own)[1]).sum(), ALL)(*operands),
        )

    with use(choice):
        ours = jax.jit(functools.partial(all_of, functools.partial(layer, relu=relu, with_residual=residual)))(
            *operands
        )
    right = functools.partial(defined, relu=relu, with_residual=residual, output=output)
    expected = exactly(functools.partial(all_of, right), *operands)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4 * np.abs(b).max() + 1e-9)


@choices
@dtypes
def test_tangents_and_gradients_are_adjoint(dtype, choice):
    """`<g, J v> = <J^T g, v>`, for operands of every dtype."""
    operands, g = numbers((8, 16, 16, 32), dtype)
    tangents = tuple(jnp.cos(a).astype(a.dtype) for a in operands)
    with use(choice):
        moved = jax.jit(lambda *a: jax.jvp(layer, a, tangents)[1])(*operands)
        cotangents = jax.jit(pulled_back(layer))(g, *operands)
    left = np.vdot(np.asarray(g, np.float64), np.asarray(moved, np.float64))
    pairs = zip(cotangents, tangents, strict=True)
    parts = [np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    size = np.linalg.norm(np.asarray(g, np.float64)) * np.linalg.norm(np.asarray(moved, np.float64))
    assert abs(left - sum(parts)) < ROUNDING[dtype] / 2 * size / 10


@choices
@dtypes
def test_transformations_do_not_change_it(dtype, choice):
    operands, g = numbers((8, 16, 16, 32), dtype)
    gradient = pulled_back(layer)
    with use(choice):
        right = jax.tree.map(lambda a: np.asarray(a, np.float64), jax.jit(gradient)(g, *operands))
        again = jax.jit(pulled_back(jax.checkpoint(layer)))(g, *operands)
        scanned = jax.jit(lambda g, *a: jax.lax.scan(lambda c, _: (c, gradient(g, *a)), 0, None, length=2)[1])
        each = jax.tree.map(lambda a: a[1], scanned(g, *operands))
        xs, gs = (jnp.stack([a, 2 * a, a + 1]) for a in (operands[0], g))
        mapped = jax.jit(jax.vmap(gradient, (0, 0, None, None, None)))(gs, xs, *operands[1:])
        with jax.disable_jit():
            eager = gradient(g, *operands)
    for ours in (again, each, jax.tree.map(lambda a: a[0], mapped), eager):
        assert_near(ours, right, 2 * ROUNDING[dtype])
    for place in (1, 2):
        one = jax.jit(gradient)(gs[place], xs[place], *operands[1:])
        right = jax.tree.map(lambda a: np.asarray(a, np.float64), one)
        assert_near(jax.tree.map(lambda a, place=place: a[place], mapped), right, 2 * ROUNDING[dtype])


@dtypes
@pytest.mark.parametrize("how", ["pmap", "shard_map", "jit"])
def test_over_devices_the_statistics_are_those_of_the_whole_batch(how, dtype):
    devices = jax.devices()[:8]
    (x, scale, bias, residual), g = numbers((16, 8, 8, 32), dtype)
    gradient = pulled_back(functools.partial(layer, axis_name="d"))
    wide = functools.partial(jax.tree.map, lambda a: np.asarray(a, np.float64))
    right = wide(jax.jit(pulled_back(layer))(g, x, scale, bias, residual))
    if how == "pmap":
        parts = [a.reshape(8, 2, *a.shape[1:]) for a in (g, x, residual)]
        step = jax.pmap(gradient, "d", in_axes=(0, 0, None, None, 0), devices=devices)
        found = step(parts[0], parts[1], scale, bias, parts[2])
        ours = found[0].reshape(x.shape), found[1].sum(0), found[2].sum(0), found[3].reshape(x.shape)
    else:
        mesh, split = Mesh(np.array(devices), ("d",)), P("d")
        specs = (split, split, P(), P(), split)
        step = (
            jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs[1:]) if how == "shard_map" else gradient
        )
        placed = [
            jax.device_put(a, jax.NamedSharding(mesh, s))
            for a, s in zip((g, x, scale, bias, residual), specs, strict=True)
        ]
        ours = jax.jit(step)(*placed)
    # Sums of a few devices round differently, so that some values of the output round to another neighbor.
    assert_near(ours, right, 2 * ROUNDING[dtype])


@pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
def test_bfloat16_is_one_call_in_each_direction_where_it_can_be():
    def called(shape, dtype, sharding=None):
        x = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        vector = jax.ShapeDtypeStruct(shape[-1:], F32)
        loss = lambda *operands: layer(*operands).astype(F32).sum()  # noqa: E731
        text = jax.jit(jax.grad(loss, ALL)).lower(x, vector, vector, x).as_text()
        return [text.count(f"custom_call @{name}(") for name in (native.BATCH_NORM, native.BATCH_NORM_GRADIENT)]

    large, small = (8, LEAST_VALUES // 128, 16), (8, LEAST_VALUES // 256, 16)
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    assert called(large, BF16) == [1, 1]
    assert called(large, F32) == [0, 0]  # XLA is as fast
    assert called(small, BF16) == [0, 0]
    assert called(large, jnp.float16) == [0, 0]
    assert called(large, BF16, jax.NamedSharding(mesh, P("d"))) == [0, 0]
