"""Batch normalization: values, derivatives of every order and mode, accuracy, and where it is one native call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import native, use
from jaxcnn.kernels._primitive import call
from jaxcnn.kernels.normalization import LEAST_CHANNELS, batch_norm
from jaxcnn.kernels.normalization import BatchNorm as Kernel
from jaxcnn.kernels.reductions import LEAST_VALUES
from jaxcnn.layers import BatchNorm

SHAPES = [(4, 3, 3, 5), (40, 7), (8, 16, 16, 16), (2, 9, 9, 131), (3, 12, 12, 64)]
RATES = {"momentum": 0.8, "epsilon": 1e-3, "unbiased": True}


def numbers(shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(sum(shape)), 5)
    x, (mean, var, scale, bias) = (
        jax.random.normal(keys[0], shape, dtype),
        (jax.random.normal(key, shape[-1:]) for key in keys[1:]),
    )
    return 2 * x + 1, mean, jnp.exp(var), scale + 1, bias


def normalized(*operands, **rates):
    """The kernel itself, without the function around it."""
    return tuple(call(Kernel(**rates), *operands)[:3])


def layer(*operands):
    return normalized(*operands, **RATES)


def defined(x, mean, var, scale, bias, momentum=0.8, epsilon=1e-3, unbiased=True):
    axes, m = tuple(range(x.ndim - 1)), x[..., 0].size
    mu, sigma2 = x.mean(axes), x.var(axes)
    y = (x - mu) / (sigma2 + epsilon) ** 0.5 * scale + bias
    new_var = sigma2 * m / (m - 1) if unbiased else sigma2
    return y, momentum * mean + (1 - momentum) * mu, momentum * var + (1 - momentum) * new_var


def assert_all_close(ours, right, rtol, atol):
    """Tolerances by the largest value of each array."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * np.abs(b).max())


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_those_of_the_definition(shape, unbiased):
    operands, rates = numbers(shape), {**RATES, "unbiased": unbiased}
    right = defined(*(np.asarray(a, np.float64) for a in operands), **rates)
    assert_all_close(normalized(*operands, **rates), right, 2e-5, 2e-6)
    assert_all_close(jax.jit(lambda *a: normalized(*a, **rates))(*operands), right, 2e-5, 2e-6)


def test_bfloat16_is_normalized_in_float32():
    operands = numbers((4, 32, 32, 32), jnp.bfloat16)
    ours = jax.jit(layer)(*operands)
    assert {a.dtype for a in ours} == {jnp.dtype("float32")}
    assert_all_close(ours, defined(*(np.asarray(a, np.float64) for a in operands)), 1e-5, 1e-5)
    assert jax.grad(lambda x: layer(x, *operands[1:])[0].sum())(operands[0]).dtype == jnp.bfloat16


def as_loss(function):
    """A scalar that is not linear in the function's results."""
    return lambda *args: sum(jnp.sin(a + n).sum() for n, a in enumerate(jax.tree.leaves(function(*args))))


ALL = (0, 1, 2, 3, 4)


@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 16)], ids=str)
def test_derivatives_of_first_and_second_order_are_those_of_the_definition(shape):
    """Sines of large derivatives amplify rounding: the definition in float32 is the measure of it."""
    primals = tuple(map(np.asarray, numbers(shape)))
    tangents = tuple(map(np.cos, primals))

    def all_of(f, dtype):
        gradient = jax.grad(as_loss(f), ALL)
        wide_primals, wide_tangents = (tuple(jnp.asarray(a, dtype) for a in given) for given in (primals, tangents))
        return jax.jit(
            lambda *args: (
                jax.jvp(f, args, wide_tangents),
                gradient(*args),
                jax.jvp(gradient, args, wide_tangents),
                jax.grad(as_loss(gradient), ALL)(*args),
                jax.grad(as_loss(lambda *args: jax.jvp(f, args, wide_tangents)), ALL)(*args),
            )
        )(*wide_primals)

    ours, rounded = (jax.tree.leaves(all_of(f, jnp.float32)) for f in (layer, defined))
    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, jax.tree.leaves(all_of(defined, jnp.float64)))
    for found, measure, right in zip(ours, rounded, exact, strict=True):
        scale = np.abs(right).max()
        assert np.abs(found - right).max() <= 3 * np.abs(measure - right).max() + 1e-5 * scale


@pytest.mark.parametrize("argument", ALL)
def test_a_derivative_by_one_argument_is_that_by_all(argument):
    primals = numbers((8, 16, 16, 16))
    one, tangent = primals[argument], jnp.cos(primals[argument])

    def of_one(f):
        return lambda a: f(*primals[:argument], a, *primals[argument + 1 :])

    def both(f):
        gradient = jax.grad(as_loss(of_one(f)))
        return jax.jvp(of_one(f), (one,), (tangent,)), gradient(one), jax.jvp(gradient, (one,), (tangent,))

    assert_all_close(jax.jit(lambda: both(layer))(), jax.jit(lambda: both(defined))(), 1e-3, 1e-4)


def test_recomputed_it_has_the_same_gradient():
    primals = numbers((8, 16, 16, 32))
    right = jax.jit(jax.grad(as_loss(layer), ALL))(*primals)
    assert_all_close(jax.jit(jax.grad(as_loss(jax.checkpoint(layer)), ALL))(*primals), right, 1e-6, 1e-6)


def test_over_a_mapped_axis_each_batch_is_one_of_its_own():
    xs = jax.random.normal(jax.random.key(0), (3, 8, 16, 16, 16))
    vectors = numbers((8, 16, 16, 16))[1:]
    for function in (layer, jax.grad(as_loss(layer), ALL), jax.grad(as_loss(jax.grad(as_loss(layer))))):
        one = jax.jit(function)
        each = jax.tree.map(lambda *a: np.stack(a), *(one(x, *vectors) for x in xs))
        assert_all_close(jax.jit(jax.vmap(function, (0, *[None] * 4)))(xs, *vectors), each, 1e-4, 1e-5)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_on_several_devices_each_part_is_a_batch_of_its_own(how):
    devices = jax.devices()[:4]
    xs, vectors = jax.random.normal(jax.random.key(0), (4, 8, 16, 16, 32)), numbers((8, 16, 16, 32))[1:]
    gradient = jax.grad(as_loss(layer), ALL)
    each = [gradient(x, *vectors) for x in xs]
    by_x, *of_vectors = (jnp.stack(parts) for parts in zip(*each, strict=True))
    if how == "pmap":
        ours = jax.pmap(gradient, in_axes=(0, *[None] * 4), devices=devices)(xs, *vectors)
        assert_all_close(ours, (by_x, *of_vectors), 1e-5, 1e-5)
    else:  # it sums the gradients of operands that all devices share
        mesh, whole = Mesh(np.array(devices), ("d",)), (P("d"), *[P()] * 4)
        sharded = jax.shard_map(gradient, mesh=mesh, in_specs=whole, out_specs=whole)
        ours = jax.jit(sharded)(xs.reshape(32, 16, 16, 32), *vectors)
        assert_all_close(ours, (by_x.reshape(ours[0].shape), *(a.sum(0) for a in of_vectors)), 1e-5, 1e-5)


def test_jit_over_a_mesh_sees_the_whole_batch():
    operands, mesh = numbers((8, 16, 16, 32)), Mesh(np.array(jax.devices()[:4]), ("d",))
    placed = jax.device_put(operands[0], jax.NamedSharding(mesh, P("d"))), *operands[1:]
    for function in (layer, jax.grad(as_loss(layer), ALL)):
        assert_all_close(jax.jit(function)(*placed), function(*operands), 1e-4, 1e-5)


@pytest.mark.parametrize("parameters", [{}, {"use_scale": False}, {"use_bias": False}, {"param_dtype": jnp.bfloat16}])
def test_many_channels_are_normalized_like_few(parameters):
    """`batch_norm` has another native form from `LEAST_CHANNELS` on."""
    few = LEAST_CHANNELS // 2
    x, norm = numbers((4, 16, 16, 2 * few))[0], BatchNorm(**parameters)
    variables = norm.init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(lambda a: a + jnp.linspace(0, 1, a.size, dtype=a.dtype), variables)
    variables = {"params": {}, **variables}

    def gradient(variables, x):
        def loss(params, x):
            y, new = norm.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.sin(y).sum(), (y, new["batch_stats"])

        return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    def part(tree, half):
        return jax.tree.map(lambda a: a[..., half * few : (half + 1) * few], tree)

    halves = [gradient(*part((variables, x), half)) for half in (0, 1)]
    right = jax.tree.map(lambda *a: jnp.concatenate(a, -1).astype(jnp.float32), *halves)
    ours = jax.tree.map(lambda a: a.astype(jnp.float32), jax.jit(gradient)(variables, x))
    narrow = 2**-7 if parameters.get("param_dtype") else 2e-5
    assert_all_close(ours, right, narrow, narrow)


@pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
def test_all_that_is_of_channels_is_one_call_in_each_direction_where_it_can_be():
    def called(shape, dtype, sharding=None):
        norm, x = BatchNorm(), jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        variables = jax.eval_shape(lambda x: norm.init(jax.random.key(0), x, train=False), x)

        def loss(params, rest, x):
            y, new = norm.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.square(y.astype(jnp.float32)).sum(), new

        step = jax.jit(jax.grad(loss, (0, 2), has_aux=True))
        text = step.lower(variables["params"], {"batch_stats": variables["batch_stats"]}, x).as_text()
        of_vectors = native.NORMALIZATION, native.NORMALIZATION_GRADIENT
        names = *of_vectors, native.BATCH_NORM, native.BATCH_NORM_GRADIENT, native.CHANNEL_SUMS
        return [text.count(f"custom_call @{name}(") for name in names]

    large, small = (8, LEAST_VALUES // 256, 32), (8, LEAST_VALUES // 512, 32)
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    assert called(large, jnp.float32) == [1, 1, 0, 0, 0]
    assert called((8, LEAST_VALUES // 128, LEAST_CHANNELS - 8), jnp.float32) == [0, 1, 0, 0, 1]
    assert called(small, jnp.float32) == [0, 0, 0, 0, 0]
    assert called(large, jnp.bfloat16) == [0, 0, 1, 1, 0]
    assert called(large, jnp.float32, jax.NamedSharding(mesh, P("d"))) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("channels", [4, 32])
def test_statistics_of_every_float_dtype_are_accepted_and_keep_it(dtype, channels):
    x, *vectors = numbers((4, 8, 8, channels))
    expected = batch_norm(x, *vectors, **RATES)
    actual = jax.jit(lambda *a: batch_norm(*a, **RATES))(x, *(v.astype(dtype) for v in vectors))
    assert [a.dtype for a in actual] == [jnp.float32, dtype, dtype]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.1)


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        x, *vectors = (jnp.asarray(np.asarray(a), jnp.float64) for a in numbers((4, 8, 8, 32)))
        y = jax.jit(lambda *a: batch_norm(*a, **RATES))(x, *vectors)[0]
        right = defined(*(np.asarray(a) for a in (x, *vectors)))[0]
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, right, rtol=1e-10, atol=1e-10)


def two_passes(x, g, dtype):
    """Return mean, variance, output and gradient of `sum(y * g)`, as two passes with pairwise sums round them."""
    values, cotangents = (np.moveaxis(a, -1, 0).reshape(a.shape[-1], -1).astype(dtype, order="C") for a in (x, g))
    mean = values.mean(1)
    centered = values - mean[:, None]
    var = np.square(centered).mean(1)
    r = 1 / np.sqrt(var + dtype(1e-5))[:, None]
    y = centered * r
    by_x = r * (cotangents - cotangents.mean(1)[:, None] - y * (cotangents * y).mean(1)[:, None])
    return mean, var, *(np.moveaxis(a.reshape(-1, *x.shape[:-1]), 0, -1) for a in (y, by_x))


def far_from_zero(shape):
    """Return images whose channels have large means, small deviations, one value, or a first example of zeros."""
    normal = np.random.default_rng(0).normal(size=shape)
    blank = 1e4 + normal
    blank[0] = 0
    kinds = [1e4 + normal, 1e6 + normal, np.full(shape, 1e4 + 0.1), np.full(shape, 1e6 + 0.3), blank, normal]
    return np.stack([kinds[c % len(kinds)][..., c] for c in range(shape[-1])], -1).astype(np.float32)


@pytest.mark.parametrize("choice", ["xla", "native"] if native.is_available() else ["xla"])
@pytest.mark.parametrize("shape", [(16, 16, 16, 12), (16, 16, 16, 36), (64, 36)], ids=str)
def test_a_large_mean_costs_no_more_digits_than_two_passes(shape, choice):
    x, g = far_from_zero(shape), np.random.default_rng(1).normal(size=shape).astype(np.float32)
    vectors = [jnp.zeros(shape[-1]), jnp.ones(shape[-1]), None, None]

    def loss(x):
        y, mean, var = batch_norm(x, *vectors, momentum=0.0, epsilon=1e-5, unbiased=False)
        return (y * g).sum(), (mean, var, y)

    with use(choice):
        by_x, statistics = jax.jit(jax.grad(loss, has_aux=True))(x)
    exact, rounded = two_passes(x, g, np.float64), two_passes(x, g, np.float32)
    scales = [np.abs(a).max(tuple(range(a.ndim - 1))) for a in exact]
    scales[0] += np.sqrt(exact[1])  # a mean near 0 is a sum of values of this size
    for scale in scales[1:]:
        scale[4::6] *= 10  # the variance of 1e7 of a channel that begins with zeros is a sum of very different values
    for ours, right, theirs, scale in zip((*statistics, by_x), exact, rounded, scales, strict=True):
        axes = tuple(range(right.ndim - 1))
        allowed = 2 * np.abs(theirs - right).max(axes) + 4e-7 * scale
        assert (np.abs(ours - right).max(axes) <= allowed).all()


def test_a_large_mean_costs_no_digits_on_several_devices():
    x = far_from_zero((16, 16, 16, 12))
    parts = x.reshape(4, 4, *x.shape[1:])
    vectors = [jnp.zeros(12), jnp.ones(12), None, None]
    rates = {"momentum": 0.0, "epsilon": 1e-5, "unbiased": False, "axis_name": "d"}
    step = jax.pmap(lambda x: batch_norm(x, *vectors, **rates), axis_name="d", devices=jax.devices()[:4])
    y, mean, var = step(parts)
    right = two_passes(x, x, np.float64)
    np.testing.assert_allclose(mean[0], right[0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(var[0], right[1], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(y.reshape(x.shape), right[2], rtol=1e-5, atol=1e-5)


def test_examples_of_channels_alone_are_normalized_over_a_mapped_axis():
    x, *vectors = numbers((40, 7))
    mapped = jax.vmap(lambda x: batch_norm(x, *vectors, **RATES, axis_name="d"), axis_name="d")
    y, mean, var = jax.jit(mapped)(x)
    assert_all_close((y, mean[0], var[0]), defined(x, *vectors), 1e-5, 1e-5)


def test_works_without_jit_and_where_rank_promotion_is_an_error():
    primals = numbers((4, 8, 8, 32))
    expected = jax.jit(jax.grad(as_loss(layer), ALL))(*primals)
    with jax.numpy_rank_promotion("raise"):
        assert_all_close(jax.jit(jax.grad(as_loss(layer), ALL))(*primals), expected, 1e-6, 1e-6)
        with jax.disable_jit():
            assert_all_close(jax.grad(as_loss(layer), ALL)(*primals), expected, 1e-4, 1e-5)


@pytest.mark.parametrize("near", [0.0, 3.0, 30.0, np.nan, np.inf])
def test_sums_around_a_running_mean_keep_the_digits_of_bfloat16(near):
    x = jnp.asarray(3 + np.random.default_rng(0).normal(size=(16, 8, 8, 5)), jnp.bfloat16)
    vectors = [jnp.full(5, near), jnp.ones(5), jnp.ones(5), jnp.zeros(5)]
    kernel = Kernel(momentum=0.0, epsilon=1e-5, unbiased=False, dtype=jnp.dtype("bfloat16"))
    around_sample, around_running = jax.jit(kernel.cpu_form)(x, *vectors), jax.jit(kernel.form)(x, *vectors)
    y, _, _, mean, r = (np.asarray(a, np.float64) for a in around_running)
    right = two_passes(np.asarray(x), np.asarray(x), np.float64)
    np.testing.assert_allclose(mean, right[0], rtol=1e-5)
    distance = near - 3 if np.isfinite(near) else -3
    np.testing.assert_allclose(1 / r**2 - 1e-5, right[1], rtol=1e-5 + 4 * 2**-24 * distance**2)
    np.testing.assert_allclose(y, np.asarray(around_sample[0], np.float64), atol=2**-6)
