"""Normalization against the papers' equations, on one device and over a mapped axis."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.layers import BATCH_AXIS, BatchNorm, LocalResponseNorm

SHAPES = [(9, 4), (3, 2, 5, 2), (8, 1, 3, 3)]
seeds = st.integers(0, 2**32 - 1)


def statistics(x):
    """mu and sigma^2 of each channel, over every example and position, and how many values they are."""
    channels = np.asarray(x, np.float64).reshape(-1, x.shape[-1]).T
    m = channels.shape[1]
    mean = [sum(values) / m for values in channels]
    var = [sum((value - mu) ** 2 for value in values) / m for values, mu in zip(channels, mean, strict=True)]
    return np.array(mean), np.array(var), m


def normalized(x, mean, var, epsilon):
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + epsilon)


def some_variables(layer: BatchNorm, shape, rng: np.random.Generator):
    """Random parameters and running statistics; variances are positive."""
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=False), jnp.zeros(shape))
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables)
    values["batch_stats"]["var"] = np.exp(values["batch_stats"]["var"])
    return values


def train(layer: BatchNorm, variables, x):
    """Output and the new running statistics."""
    y, updates = layer.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    return y, updates["batch_stats"]


def images(shape, rng: np.random.Generator):
    """Every channel with a mean and a standard deviation of its own."""
    channels = shape[-1]
    return (rng.uniform(-3, 3, channels) + rng.uniform(0.5, 3, channels) * rng.normal(size=shape)).astype(np.float32)


@given(
    st.sampled_from(SHAPES),
    st.sampled_from([1e-5, 1e-3, 0.1]),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    seeds,
)
@settings(deadline=None, max_examples=25, derandomize=True)
def test_training_follows_the_four_equations(shape, epsilon, momentum, unbiased, use_scale, use_bias, seed):
    rng = np.random.default_rng(seed)
    layer = BatchNorm(momentum, epsilon, use_scale, use_bias, unbiased)
    variables, x = some_variables(layer, shape, rng), images(shape, rng)
    parameters, old = variables.get("params", {}), variables["batch_stats"]
    y, new = train(layer, variables, x)

    mean, var, m = statistics(x)
    gamma, beta = parameters.get("scale", 1.0), parameters.get("bias", 0.0)
    np.testing.assert_allclose(y, gamma * normalized(x, mean, var, epsilon) + beta, rtol=1e-4, atol=1e-4)
    var = var * m / (m - 1) if unbiased else var
    np.testing.assert_allclose(new["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["var"], momentum * old["var"] + (1 - momentum) * var, rtol=1e-4, atol=1e-5)
    assert set(parameters) == {name for name, used in (("scale", use_scale), ("bias", use_bias)) if used}


@given(st.sampled_from(SHAPES), st.sampled_from([1e-5, 0.1]), seeds)
@settings(deadline=None, max_examples=15, derandomize=True)
def test_testing_uses_the_running_statistics_only(shape, epsilon, seed):
    rng = np.random.default_rng(seed)
    layer = BatchNorm(epsilon=epsilon)
    variables, x = some_variables(layer, shape, rng), images(shape, rng)
    parameters, running = variables["params"], variables["batch_stats"]
    y, updates = layer.apply(variables, x, train=False, mutable=["batch_stats"])
    xhat = normalized(x, running["mean"].astype(np.float64), running["var"].astype(np.float64), epsilon)
    np.testing.assert_allclose(y, parameters["scale"] * xhat + parameters["bias"], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], running)
    # An example's output is the same in any company.
    alone = layer.apply(variables, x[:1], train=False)
    np.testing.assert_array_equal(alone, y[:1])
    crowd = layer.apply(variables, np.concatenate([x[:1], 100 + x[1:]]), train=False)
    np.testing.assert_array_equal(crowd[:1], alone)


@given(st.sampled_from(SHAPES), seeds)
@settings(deadline=None, max_examples=10, derandomize=True)
def test_gradient_flows_through_the_statistics(shape, seed):
    rng = np.random.default_rng(seed)
    layer = BatchNorm()
    variables, x = some_variables(layer, shape, rng), images(shape, rng)
    g = rng.normal(size=shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: (train(layer, variables, x)[0] * g).sum()))(x)
    # Ioffe and Szegedy, section 3, the chain rule worked out.
    mean, var, _ = statistics(x)
    xhat, axes = normalized(x, mean, var, layer.epsilon), tuple(range(len(shape) - 1))
    centered = g - g.mean(axes, dtype=np.float64) - xhat * (g * xhat).mean(axes)
    expected = variables["params"]["scale"] / np.sqrt(var + layer.epsilon) * centered
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_starts_at_the_identity_and_initializing_leaves_the_statistics_alone():
    x = jnp.asarray(images((6, 3), np.random.default_rng(0)))
    for mode in (False, True):
        variables = BatchNorm().init(jax.random.key(0), x, train=mode)
        assert jax.tree.map(lambda leaf: leaf.tolist(), variables) == {
            "params": {"scale": [1.0] * 3, "bias": [0.0] * 3},
            "batch_stats": {"mean": [0.0] * 3, "var": [1.0] * 3},
        }


def test_a_batch_of_one_value_stays_finite():
    layer, x = BatchNorm(), jnp.array([[3.0, -2.0]])
    y, new = train(layer, layer.init(jax.random.key(0), x, train=False), x)
    np.testing.assert_allclose(y, np.zeros((1, 2)), atol=1e-3)
    np.testing.assert_allclose(new["var"], [0.9, 0.9], rtol=1e-5)


def test_running_statistics_come_to_those_of_the_data():
    rng = np.random.default_rng(1)
    layer, x = BatchNorm(momentum=0.5), images((40, 3), rng)
    variables = some_variables(layer, x.shape, rng)
    for _ in range(40):
        variables = variables | {"batch_stats": train(layer, variables, x)[1]}
    mean, var, m = statistics(x)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], var * m / (m - 1), rtol=1e-5)


def test_a_large_mean_costs_no_accuracy_once_the_running_mean_is_near():
    rng = np.random.default_rng(2)
    layer = BatchNorm(momentum=0.0, unbiased=False)
    x = (1e4 + rng.normal(size=(16, 8, 8, 3))).astype(np.float32)
    variables = layer.init(jax.random.key(0), x, train=False)
    variables["batch_stats"]["mean"] += 1e4 + 0.3
    y, new = train(layer, variables, x)
    mean, var, _ = statistics(x)
    np.testing.assert_allclose(new["var"], var, rtol=1e-5)
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-7)
    # The mean itself is a float32, half of whose last digit is 5e-4 here.
    np.testing.assert_allclose(y, normalized(x, mean, var, layer.epsilon), atol=1e-3)


def test_statistics_of_bfloat16_are_float32():
    rng = np.random.default_rng(3)
    layer = BatchNorm(momentum=0.0, unbiased=False)
    x = jnp.asarray(images((32, 8, 8, 3), rng), jnp.bfloat16)
    y, new = train(layer, layer.init(jax.random.key(0), x, train=False), x)
    mean, var, _ = statistics(x.astype(jnp.float32))
    assert {leaf.dtype for leaf in new.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new["var"], var, rtol=1e-5)
    expected = normalized(x.astype(jnp.float32), mean, var, layer.epsilon)
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize(
    ("given_dtype", "dtype", "out"),
    [
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_output_has_the_dtype_asked_for(given_dtype, dtype, out, mode):
    layer, x = BatchNorm(dtype=dtype), jnp.ones((4, 2), given_dtype)
    variables = layer.init(jax.random.key(0), x, train=False)
    y, updates = layer.apply(variables, x, train=mode, mutable=["batch_stats"])
    assert y.dtype == out
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}


def by_pmap(step, variables, parts):
    return jax.pmap(step, axis_name=BATCH_AXIS, in_axes=(None, 0))(variables, parts)


def by_vmap(step, variables, parts):
    return jax.jit(jax.vmap(step, axis_name=BATCH_AXIS, in_axes=(None, 0)))(variables, parts)


def by_shard_map(step, variables, parts):
    def one_part(variables, parts):
        return jax.tree.map(lambda leaf: leaf[None], step(variables, parts[0]))

    mesh, spread = Mesh(jax.devices(), (BATCH_AXIS,)), PartitionSpec(BATCH_AXIS)
    spread_step = jax.shard_map(one_part, mesh=mesh, in_specs=(PartitionSpec(), spread), out_specs=spread)
    return jax.jit(spread_step)(variables, parts)


mapped = pytest.mark.parametrize("spread", [by_pmap, by_shard_map, by_vmap])
PARTS = (8, 3, 2, 2, 4)


def parts_that_differ(rng: np.random.Generator):
    """`[8, n, H, W, C]`, one part for each device, with means far apart."""
    return images(PARTS, rng) + 2 * np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1, 1)


@mapped
@pytest.mark.parametrize("unbiased", [True, False])
def test_a_batch_spread_over_a_mapped_axis_is_one_batch(spread, unbiased):
    rng = np.random.default_rng(4)
    layer, parts = BatchNorm(unbiased=unbiased), parts_that_differ(rng)
    whole = parts.reshape(-1, *PARTS[2:])
    variables = some_variables(layer, whole.shape, rng)
    y, new = spread(lambda v, x: train(layer, v, x), variables, parts)
    expected, expected_new = train(layer, variables, whole)
    np.testing.assert_allclose(y.reshape(whole.shape), expected, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(new[name], np.stack([expected_new[name]] * 8), rtol=1e-5, atol=1e-5)


@mapped
def test_gradient_of_a_spread_batch_is_that_of_the_whole(spread):
    rng = np.random.default_rng(5)
    layer, parts = BatchNorm(), parts_that_differ(rng)
    g = rng.normal(size=PARTS).astype(np.float32)
    variables = some_variables(layer, PARTS[1:], rng)

    def spread_loss(parts):
        return (spread(lambda v, x: train(layer, v, x)[0], variables, parts) * g).sum()

    def whole_loss(parts):
        whole = parts.reshape(-1, *PARTS[2:])
        return (train(layer, variables, whole)[0].reshape(PARTS) * g).sum()

    gradient, expected = jax.jit(jax.grad(spread_loss))(parts), jax.jit(jax.grad(whole_loss))(parts)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_jit_over_a_mesh_sees_the_whole_batch():
    rng = np.random.default_rng(6)
    layer, parts = BatchNorm(), parts_that_differ(rng)
    whole = parts.reshape(-1, *PARTS[2:])
    variables = some_variables(layer, whole.shape, rng)
    placed = jax.device_put(whole, NamedSharding(Mesh(jax.devices(), ("devices",)), PartitionSpec("devices")))
    y, new = jax.jit(lambda v, x: train(layer, v, x))(variables, placed)
    expected, expected_new = train(layer, variables, whole)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), new, expected_new)


@pytest.mark.parametrize("groups", [((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 7), (1, 6), (2, 5), (3, 4))])
def test_groups_synchronize_among_themselves(groups):
    rng = np.random.default_rng(7)
    layer, parts = BatchNorm(axis_index_groups=groups), parts_that_differ(rng)
    variables = some_variables(layer, PARTS[1:], rng)
    y, new = by_pmap(lambda v, x: train(layer, v, x), variables, parts)
    for group in map(list, groups):
        together = parts[group].reshape(-1, *PARTS[2:])
        expected, expected_new = train(BatchNorm(), variables, together)
        np.testing.assert_allclose(np.asarray(y)[group].reshape(together.shape), expected, rtol=1e-4, atol=1e-4)
        for name in ("mean", "var"):
            of_group = np.stack([expected_new[name]] * len(group))
            np.testing.assert_allclose(np.asarray(new[name])[group], of_group, rtol=1e-5, atol=1e-5)


@mapped
def test_without_an_axis_each_device_keeps_to_its_part(spread):
    rng = np.random.default_rng(8)
    layer, parts = BatchNorm(axis_name=None), parts_that_differ(rng)
    variables = some_variables(layer, PARTS[1:], rng)
    y, new = spread(lambda v, x: train(layer, v, x), variables, parts)
    for device, part in enumerate(parts):
        expected, expected_new = train(layer, variables, part)
        np.testing.assert_allclose(y[device], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(new["mean"][device], expected_new["mean"], rtol=1e-5, atol=1e-5)
    assert np.ptp(new["mean"], axis=0).min() > 0.5


def local_response(x, size, alpha, beta, k):
    """`b_i = a_i / (k + alpha sum_j a_j^2)^beta` over `size` channels around i, as far as there are any."""
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for i in range(x.shape[-1]):
        # An even size has one channel more below i than above, which is torch's choice.
        near = [j for j in range(i - size // 2, i - size // 2 + size) if 0 <= j < x.shape[-1]]
        y[..., i] = x[..., i] / (k + alpha * sum(x[..., j] ** 2 for j in near)) ** beta
    return y


@given(
    st.sampled_from([(2, 3), (1, 2, 3, 8)]),
    st.integers(1, 9),
    st.floats(1e-4, 1),
    st.floats(0.1, 1),
    st.floats(1, 3),
    seeds,
)
@settings(deadline=None, max_examples=25, derandomize=True)
def test_local_response_follows_its_formula(shape, size, alpha, beta, k, seed):
    x = np.random.default_rng(seed).normal(scale=5, size=shape).astype(np.float32)
    y = LocalResponseNorm(size, alpha, beta, k)(jnp.asarray(x))
    np.testing.assert_allclose(y, local_response(x, size, alpha, beta, k), rtol=1e-5, atol=1e-6)


def test_local_response_has_the_papers_constants():
    x = np.random.default_rng(9).normal(scale=100, size=(1, 2, 2, 7)).astype(np.float32)
    expected = local_response(x, 5, 1e-4, 0.75, 2)
    np.testing.assert_allclose(LocalResponseNorm()(jnp.asarray(x)), expected, rtol=1e-5)
    narrow = LocalResponseNorm()(jnp.asarray(x, jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), expected, rtol=0.02)


def test_local_response_can_be_differentiated():
    x = np.random.default_rng(10).normal(size=(1, 2, 2, 6)).astype(np.float32)
    jax.test_util.check_grads(LocalResponseNorm(3, 0.5), (x,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
