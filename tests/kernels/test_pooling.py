"""Pooling: values, derivatives of every order and mode, and where they are computed."""

import itertools
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn import kernels
from jaxcnn.freezing import freeze
from jaxcnn.kernels import _primitive, native, pooling
from jaxcnn.layers import AvgPool, Conv, MaxPool, Sequential

needs_native = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
FORMS = ["xla", pytest.param("native", marks=needs_native)]

pytestmark = pytest.mark.usefixtures("compile_quickly")

NONE = ((0, 0), (0, 0))


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]


CASES = [
    Case((3, 9, 8, 3), (3, 3), (2, 2), ((1, 1), (1, 1))),
    Case((2, 7, 9, 33), (3, 3), (1, 1), ((1, 1), (1, 1))),
    Case((5, 12, 10, 6), (2, 2), (2, 2), NONE),
    Case((2, 9, 11, 64), (2, 3), (1, 2), ((1, 0), (0, 2))),
    Case((2, 13, 11, 17), (2, 1), (5, 4), ((0, 1), (0, 0))),  # values between windows
    Case((1, 5, 6, 100), (10, 12), (1, 2), ((9, 3), (8, 11))),  # windows larger than the image
    Case((2, 3, 3, 2), (2, 2), (2, 1), ((2, 4), (0, 3))),  # windows of padding alone
    Case((2, 4, 5, 48), (2, 3), (2, 3), ((2, 1), (4, 0))),
]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """All pooling by XLA's operations or, however small, by the native library."""
    monkeypatch.setattr(pooling, "LEAST_VALUES", 0)
    with kernels.use(request.param):
        _primitive._compiled.clear_cache()
        yield request.param
    _primitive._compiled.clear_cache()


def max_pool(case, x):
    return kernels.max_pool(x, *case[1:])


def avg_pool(case, x):
    return kernels.avg_pool(x, *case[1:], counted=case.padding)


def largest(case, x):
    """The definition, with XLA's own gradient."""
    initial = np.array(-np.inf, x.dtype)
    return windows(case, x, initial, jax.lax.max)


def mean(case, x):
    return windows(case, x, np.array(0, x.dtype), jax.lax.add) / np.prod(case.window)


def windows(case, x, initial, function):
    padding = ((0, 0), *case.padding, (0, 0))
    return jax.lax.reduce_window(x, initial, function, (1, *case.window, 1), (1, *case.strides, 1), padding)


def numbers(case, values=None, dtype=jnp.float32, seed=0):
    """Random images. Of few different values, if asked, so that most windows have ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=case.shape) if values is None else rng.integers(-values, values + 1, case.shape)
    return jnp.asarray(x, dtype)


def both(function, case, x, g):
    """Return the values and the gradient in one program."""

    @jax.jit
    def run(x, g):
        y, pull = jax.vjp(lambda x: function(case, x), x)
        return y, pull(g)[0]

    return run(x, g)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("values", [1, 3, 100])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maxima_and_their_gradients_are_those_of_xla(form, case, values, dtype):
    x = numbers(case, values, dtype)
    shape = jax.eval_shape(lambda x: largest(case, x), x).shape
    g = jnp.asarray(np.random.default_rng(1).integers(0, 3, shape), dtype)  # sums of these are exact
    for ours, expected in zip(both(max_pool, case, x, g), both(largest, case, x, g), strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)


@needs_native
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_gradients_of_maxima_have_the_bits_of_xla(case, monkeypatch):
    """Cotangents are added in the order of their windows, as XLA adds them."""
    monkeypatch.setattr(pooling, "LEAST_VALUES", 0)
    x = numbers(case, 3)
    g = numbers(case._replace(shape=jax.eval_shape(lambda x: largest(case, x), x).shape), seed=1)
    with kernels.use("native"):
        ours = both(max_pool, case, x, g)
    for a, b in zip(ours, both(largest, case, x, g), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nan_and_infinity_win(form, dtype):
    case = CASES[0]
    rng = np.random.default_rng(3)
    x = numbers(case, dtype=dtype).at[tuple(rng.integers(0, n, 20) for n in case.shape)].set(jnp.nan)
    x = x.at[tuple(rng.integers(0, n, 20) for n in case.shape)].set(jnp.inf)
    x = x.at[tuple(rng.integers(0, n, 20) for n in case.shape)].set(-jnp.inf)
    y = jax.jit(lambda x: max_pool(case, x))(x)
    assert 0 < jnp.isnan(y).sum() < y.size
    np.testing.assert_array_equal(y.astype(jnp.float32), largest(case, x.astype(jnp.float32)))
    gradient = both(max_pool, case, x, jnp.ones_like(y))[1]
    assert gradient.astype(jnp.float32).sum() == y.size  # also where a window has several


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_means_and_their_gradients_are_those_of_float64(form, case, dtype):
    x = numbers(case, dtype=dtype)
    g = numbers(case._replace(shape=jax.eval_shape(lambda x: mean(case, x), x).shape), dtype=dtype, seed=1)
    with jax.enable_x64(True):
        expected = both(mean, case, jnp.asarray(x, "float64"), jnp.asarray(g, "float64"))
    rounding = 2e-6 if dtype == "float32" else 2**-8
    for ours, right in zip(both(avg_pool, case, x, g), expected, strict=True):
        assert ours.dtype == dtype
        # In bfloat16, each result is rounded once.
        np.testing.assert_allclose(np.float64(ours), right, rtol=rounding, atol=2e-6)


def test_means_count_the_padding_that_they_are_told_to(form):
    case = Case((1, 4, 4, 2), (3, 3), (2, 2), ((1, 2), (1, 0)))

    def means(x):
        return kernels.avg_pool(x, *case[1:], counted=((1, 0), (0, 0)))  # the first row of padding alone

    y, pull = jax.vjp(jax.jit(means), jnp.ones(case.shape))
    np.testing.assert_allclose(y[0, ..., 0], [[2 / 3, 2 / 3], [1, 1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0].sum(), y.sum(), rtol=1e-6)


@pytest.mark.parametrize("function", [max_pool, avg_pool])
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(form, function, case):
    definition = {max_pool: largest, avg_pool: mean}[function]
    x, dot = numbers(case), numbers(case, seed=1)

    def all_of(f):
        def loss(x):
            return jnp.sin(f(case, x)).sum()

        gradient = jax.grad(loss)
        return jax.jit(
            lambda x, dot: (
                jax.jvp(lambda x: f(case, x), (x,), (dot,)),
                gradient(x),
                jax.jvp(gradient, (x,), (dot,)),
                jax.grad(lambda x: jnp.cos(gradient(x)).sum())(x),
                jax.grad(lambda x: jnp.cos(jax.jvp(loss, (x,), (dot,))[1]).sum())(x),
                jax.vjp(jax.checkpoint(lambda x: f(case, x)), x)[1](f(case, dot))[0],
            )
        )(x, dot)

    for a, b in zip(jax.tree.leaves(all_of(function)), jax.tree.leaves(all_of(definition)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [max_pool, avg_pool])
def test_a_transformation_gives_what_a_plain_loop_gives(form, function):
    case = CASES[0]
    xs = jnp.stack([numbers(case, seed=seed) for seed in range(3)])
    g = function(case, xs[0])

    def gradient(x, g):
        return jax.vjp(lambda x: function(case, x), x)[1](g)[0]

    np.testing.assert_array_equal(jax.vmap(lambda x: function(case, x))(xs), [function(case, x) for x in xs])
    each = np.stack([gradient(x, g) for x in xs])
    np.testing.assert_allclose(jax.vmap(gradient, (0, None))(xs, g), each, rtol=1e-5)
    np.testing.assert_allclose(jax.lax.map(lambda x: gradient(x, g), xs), each, rtol=1e-5)
    gs = jnp.stack([g, 2 * g], -1)
    of_cotangents = jax.vmap(gradient, (None, -1), 1)(xs[0], gs)
    np.testing.assert_allclose(of_cotangents[:, 1], each[0] * 2, rtol=1e-5)
    with jax.disable_jit():
        np.testing.assert_allclose(gradient(xs[0], g), each[0], rtol=1e-5)
    with kernels.inlined():
        np.testing.assert_allclose(gradient(xs[0], g), each[0], rtol=1e-5)


@pytest.mark.parametrize("function", [max_pool, avg_pool])
@pytest.mark.parametrize("how", ["pmap", "shard_map", "jit"])
def test_gradients_over_devices_are_those_of_one(form, function, how):
    case = Case((16, 9, 8, 3), (3, 3), (2, 2), ((1, 1), (1, 1)))
    x = numbers(case)

    def gradient(x):
        return jax.grad(lambda x: jnp.square(function(case, x)).sum())(x)

    right, devices = gradient(x), np.array(jax.devices())
    assert len(devices) == 8
    if how == "pmap":
        ours = jax.pmap(gradient)(x.reshape(8, 2, *x.shape[1:])).reshape(x.shape)
    else:
        mesh = Mesh(devices, ("d",))
        step = jax.shard_map(gradient, mesh=mesh, in_specs=P("d"), out_specs=P("d")) if how == "shard_map" else gradient
        ours = jax.jit(step)(jax.device_put(x, jax.NamedSharding(mesh, P("d"))))
    np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-6)


@needs_native
def test_results_have_the_same_bits_whenever_they_are_computed():
    case = Case((8, 56, 56, 64), (3, 3), (2, 2), ((1, 1), (1, 1)))
    x = numbers(case)
    for function in (max_pool, avg_pool):
        g = jnp.cos(numbers(case))[:, ::2, ::2]
        first = both(function, case, x, g)
        for _, (a, b) in itertools.product(range(3), zip(first, both(function, case, x, g), strict=True)):
            np.testing.assert_array_equal(a, b)


def lowered(function, case, dtype="float32", sharding=None, platform="cpu"):
    x = jax.ShapeDtypeStruct(case.shape, dtype, sharding=sharding)
    run = jax.jit(lambda x: jax.value_and_grad(lambda x: (function(case, x) ** 2).sum())(x))
    return run.trace(x).lower(lowering_platforms=(platform,)).as_text()


@needs_native
@pytest.mark.parametrize(("function", "name"), [(max_pool, native.MAX_POOL), (avg_pool, native.AVG_POOL)])
def test_native_code_computes_large_images_of_two_dtypes_on_one_device(function, name):
    large = Case((8, 64, pooling.LEAST_VALUES // 64, 8), (2, 2), (2, 2), NONE)
    small = large._replace(shape=(1, 4, 4, 8))
    mesh = Mesh(np.array(jax.devices()), ("d",))
    for dtype in ("float32", "bfloat16"):
        text = lowered(function, large, dtype)
        assert text.count(f"@{name}(") == text.count(f"@{name}_gradient(") == 1  # no second forward pass
    others = [
        lowered(function, small),
        lowered(function, large, "float16"),
        lowered(function, large, sharding=jax.NamedSharding(mesh, P("d"))),
        lowered(function, large, platform="tpu"),
        lowered(function, large, platform="cuda"),
        str(jax.export.export(jax.jit(lambda x: function(large, x)))(jnp.ones(large.shape)).mlir_module()),
    ]
    with kernels.use("xla"):
        others.append(lowered(function, large))
    assert not any("custom_call @jaxcnn" in text for text in others)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_compute_gradients_of_maxima_by_select_and_scatter(platform):
    text = lowered(max_pool, CASES[0], platform=platform)
    assert text.count("stablehlo.select_and_scatter") == 1
    assert "optimization_barrier" not in text


def test_means_of_four_in_bfloat16_are_divided_behind_the_rounding():
    """Or XLA for GPUs would drop the rounding, and keep the means in float32 too."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 6, 16)), jnp.bfloat16)
    mean = jax.jit(lambda x: kernels.avg_pool(x, (2, 2), (2, 2), NONE, NONE))
    right = x.astype(jnp.float32).reshape(2, 4, 2, 3, 2, 16).sum((2, 4)) / 4
    np.testing.assert_array_equal(mean(x), right.astype(jnp.bfloat16))
    text = mean.trace(x).lower(lowering_platforms=("cuda",)).as_text()
    assert [line.split()[-1] for line in text.splitlines() if "stablehlo.divide" in line] == ["tensor<2x4x3x16xbf16>"]


@needs_native
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(("layer", "name"), [(MaxPool(2), native.MAX_POOL), (AvgPool(2), native.AVG_POOL)])
def test_frozen_networks_pool_by_native_code_in_their_dtype(layer, name, dtype):
    model = Sequential([Conv(16, 3, padding=1), layer, Conv(8, 1)])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 64, 64, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x[:1])
    frozen = freeze(model, variables) if dtype is None else freeze(model, variables, dtype=dtype)
    text = jax.jit(frozen).lower(x).as_text()
    (line,) = (line for line in text.splitlines() if f"@{name}(" in line)
    assert line.count("f32>" if dtype is None else "bf16>") == 2
    np.testing.assert_allclose(frozen(x), model.apply(variables, x), atol=1e-5 if dtype is None else 0.1)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_maxima_of_integers_and_booleans(dtype):
    x = np.random.default_rng(0).integers(0, 2, (2, 6, 6, 3)).astype(dtype)
    y = kernels.max_pool(jnp.asarray(x), (2, 2), (2, 2), NONE)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x.reshape(2, 3, 2, 3, 2, 3).max((2, 4)))


def test_images_without_values():
    assert kernels.max_pool(jnp.ones((0, 6, 6, 3)), (2, 2), (2, 2), NONE).shape == (0, 3, 3, 3)
    assert kernels.avg_pool(jnp.ones((0, 6, 6, 3)), (2, 2), (2, 2), NONE, NONE).shape == (0, 3, 3, 3)
