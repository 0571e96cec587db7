"""Every layer with integer images, float64, and variables of half precision."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import create_model, layers
from jaxcnn.kernels import native, use

LAYERS = {
    "Conv": layers.Conv(32, 3),
    "Dense": layers.Dense(4),
    "MaxPool": layers.MaxPool(2),
    "padded MaxPool": layers.MaxPool(3, 1, padding=1),
    "wide MaxPool": layers.MaxPool(8, 1, padding=4),
    "AvgPool": layers.AvgPool(2),
    "GlobalAvgPool": layers.GlobalAvgPool(),
    "AdaptiveAvgPool": layers.AdaptiveAvgPool(3),
    "BatchNorm": layers.BatchNorm(),
    "LayerNorm": layers.LayerNorm(),
    "LocalResponseNorm": layers.LocalResponseNorm(),
    "ReLU": layers.ReLU(),
    "GELU": layers.GELU(),
    "ReLU6": layers.ReLU6(),
    "SiLU": layers.SiLU(),
    "HardSigmoid": layers.HardSigmoid(),
    "HardSwish": layers.HardSwish(),
    "Sigmoid": layers.Sigmoid(),
    "Tanh": layers.Tanh(1.7159, 2 / 3),
    "Softmax": layers.Softmax(),
    "Dropout": layers.Dropout(0.5),
    "StochasticDepth": layers.StochasticDepth(0.5),
    "SqueezeExcitation": layers.SqueezeExcitation(2),
    "Flatten": layers.Flatten(),
    "ZeroPadShortcut": layers.ZeroPadShortcut(40, 2),
    "Residual": layers.Residual(layers.ReLU()),
    "Concat": layers.Concat([layers.ReLU(), layers.AvgPool(3, 1, 1)]),
    "Sequential": layers.Sequential([layers.Flatten(), layers.Dense(3)]),
}
KEEPS_INTEGERS = {"MaxPool", "padded MaxPool", "wide MaxPool", "ReLU", "Flatten", "ZeroPadShortcut"}
SENSITIVE = {"MaxPool", "Sigmoid", "Softmax", "Residual"}
"""Layers that fail in ways of their own for other integers and for booleans."""

CHOICES = ["xla", "native"] if native.is_available() else ["xla"]
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def arguments(layer, x, train):
    return (x, train) if "train" in inspect.signature(type(layer).__call__).parameters else (x,)


def results(layer, variables, x, train):
    """Return the output of a layer, and its new statistics."""
    return layer.apply(variables, *arguments(layer, x, train), rngs=KEYS, mutable=["batch_stats"])


INTEGERS = [
    pytest.param(name, dtype, marks=[] if dtype == "uint8" or name in SENSITIVE else pytest.mark.slow)
    for name in LAYERS
    for dtype in ("uint8", "int32", "bool")
]


@pytest.mark.parametrize(("name", "dtype"), INTEGERS)
def test_integers_give_what_floats_give(name, dtype):
    layer = LAYERS[name]
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 6)).astype(dtype))
    variables = layer.init(KEYS, *arguments(layer, x, False))
    for train in (False, True):
        ours, statistics = results(layer, variables, x, train)
        expected, expected_statistics = results(layer, variables, x.astype(jnp.float32), train)
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=1e-6, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, statistics, expected_statistics)
        if name not in KEEPS_INTEGERS and (train or layer not in (LAYERS["Dropout"], LAYERS["StochasticDepth"])):
            assert ours.dtype == expected.dtype


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["Conv", "Dense", "BatchNorm", "LayerNorm"])
def test_variables_cast_to_half_precision_are_accepted(name, choice, compile_quickly):
    layer, x = LAYERS[name], jax.random.normal(jax.random.key(2), (8, 8, 8, 32))
    variables = layer.init(KEYS, *arguments(layer, x, False))

    @jax.jit
    def run(variables, x):
        def loss(params, x):
            y, updates = results(layer, {**variables, "params": params}, x, True)
            return jnp.sin(y.astype(jnp.float32)).sum(), (y, updates)

        gradients, (y, updates) = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return results(layer, variables, x, False)[0], y, gradients, updates

    with use(choice):
        expected = run(variables, x)
        for dtype in (jnp.bfloat16, jnp.float16):
            half = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), variables)
            for image in (x, x.astype(dtype)):
                evaluated, trained, gradients, updates = run(half, image)
                assert {a.dtype for a in jax.tree.leaves(updates)} <= {jnp.dtype(dtype)}
                everything = zip((evaluated, trained, gradients, updates), expected, strict=True)
                for a, b in (pair for trees in everything for pair in zip(*map(jax.tree.leaves, trees), strict=True)):
                    assert np.abs(a.astype(jnp.float32) - b).max() < 0.05 * np.abs(b).max()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["resnet18", pytest.param("alexnet", marks=pytest.mark.slow)])
def test_models_accept_variables_cast_to_half_precision(name, dtype, choice):
    model = create_model(name, num_classes=10)
    x = jax.ShapeDtypeStruct((16, *model.image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(KEYS, x, train=False), x)
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), variables)

    def loss(params, rest, x):
        y, updates = model.apply({**rest, "params": params}, x, train=True, rngs=KEYS, mutable=["batch_stats"])
        return y.sum(), updates

    rest = {name: value for name, value in half.items() if name != "params"}
    with use(choice):
        jax.jit(lambda variables, x: model.apply(variables, x, train=False)).lower(half, x)
        jax.jit(jax.grad(loss, has_aux=True)).lower(half["params"], rest, x)


@pytest.mark.parametrize("layer", [layers.Dense(2, dtype=jnp.bfloat16), layers.Conv(2, 1, dtype=jnp.bfloat16)])
def test_the_gradient_of_a_bias_is_not_summed_in_bfloat16(layer):
    x = jnp.ones((10, 10, 10, 1))
    variables = layer.init(KEYS, x)
    gradient = jax.jit(jax.grad(lambda variables: layer.apply(variables, x).astype(jnp.float32).sum()))(variables)
    np.testing.assert_array_equal(gradient["params"]["bias"], 1000)


@pytest.mark.parametrize("layer", [layers.BatchNorm, layers.LayerNorm], ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("given", ["float32", "float64"])
def test_float64_is_computed_in_float64_on_request(layer, given):
    with jax.enable_x64(True):
        layer = layer(dtype=jnp.float64, param_dtype=jnp.float64)
        x = jnp.asarray(np.random.default_rng(3).normal(3, 2, (6, 4, 4, 32)).astype(given))
        variables = layer.init(KEYS, *arguments(layer, x, False))
        assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float64")}
        y, updates = results(layer, variables, x, True)
        values = np.asarray(x, np.float64)
        axes = (0, 1, 2) if isinstance(layer, layers.BatchNorm) else (3,)
        mean, var = values.mean(axes, keepdims=True), values.var(axes, keepdims=True)
        np.testing.assert_allclose(y, (values - mean) / np.sqrt(var + layer.epsilon), rtol=1e-12, atol=1e-12)
        if updates:
            np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean.squeeze(), rtol=1e-12, atol=1e-12)
