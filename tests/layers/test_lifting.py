"""Flax's lifted transformations of layers compute what the layers compute, in training and in evaluation."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import BatchNorm, Concat, Conv, Dropout, LayerNorm, ReLU, Residual, Sequential, StochasticDepth

# All of them keep the shape [N, 4, 4, 2], so that they can be scanned.
LAYERS = {
    "BatchNorm": BatchNorm(),
    "LayerNorm": LayerNorm(),
    "Dropout": Dropout(0.5),
    "StochasticDepth": StochasticDepth(0.5),
    "Sequential": Sequential((Conv(2, 3, padding=1), BatchNorm(), ReLU(), Dropout(0.5))),
    "Residual": Residual(Sequential((Conv(2, 1), BatchNorm())), BatchNorm()),
    "Concat": Concat((Sequential((Conv(1, 1), BatchNorm())), Sequential((Conv(1, 3, padding=1), Dropout(0.5))))),
}
RANDOM = [layer for name, layer in LAYERS.items() if name in ("Dropout", "StochasticDepth", "Sequential", "Concat")]
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
modes = pytest.mark.parametrize("train", [False, True])
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X = np.random.default_rng(0).normal(size=(3, 6, 4, 4, 2)).astype(np.float32)


def fields(layer: nn.Module) -> dict[str, Any]:
    return {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.name not in ("parent", "name")}


def apply(layer: nn.Module, variables: Any, x: Any, train: bool) -> Any:
    return layer.apply(variables, x, train, rngs={"dropout": KEYS["dropout"]}, mutable=["batch_stats"])


def assert_random(layer: nn.Module, variables: Any, x: Any) -> None:
    """In training, another key gives another output."""
    outputs = [
        layer.apply(variables, x, True, rngs={"dropout": jax.random.key(n)}, mutable=["batch_stats"])[0] for n in (0, 1)
    ]
    assert any(np.abs(a - b).max() > 0.1 for a, b in zip(*map(jax.tree.leaves, outputs), strict=True))


def assert_same(a: Any, b: Any, atol: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol)


@every_layer
@modes
@pytest.mark.parametrize("transform", [nn.remat, nn.jit])
def test_remat_and_jit(transform, layer, train):
    lifted = transform(type(layer), static_argnums=(2,))(**fields(layer))
    variables = layer.init(KEYS, X[0], train)
    shapes = jax.eval_shape(lambda x: lifted.init(KEYS, x, train), X[0])
    assert shapes == jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    if transform is nn.jit and train and layer in RANDOM:  # nn.jit gives a module other random numbers
        assert_random(lifted, variables, X[0])
        return
    assert_same(apply(lifted, variables, X[0], train), apply(layer, variables, X[0], train))
    gradients = (
        jax.grad(lambda x, of=of: (apply(of, variables, x, train)[0] ** 3).sum())(X[0]) for of in (lifted, layer)
    )
    # With two channels the gradients of LayerNorm are differences of almost equal numbers.
    assert_same(*gradients, atol=1e-4)


@every_layer
@modes
def test_vmap(layer, train):
    transform = nn.vmap(
        type(layer),
        variable_axes={"params": None, "batch_stats": 0},
        split_rngs={"params": False, "dropout": False},
        in_axes=(0, None),
    )
    lifted = transform(**fields(layer))
    variables = lifted.init(KEYS, X, train)
    got = apply(lifted, variables, X, train)
    each = []
    for index, x in enumerate(X):
        statistics = jax.tree.map(lambda leaf, index=index: leaf[index], variables.get("batch_stats", {}))
        each.append(apply(layer, {**variables, "batch_stats": statistics}, x, train))
    y = jnp.stack([y for y, _ in each])
    np.testing.assert_allclose(got[0], y, rtol=1e-5, atol=1e-6)
    if "batch_stats" in variables:
        assert_same(got[1], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(updates for _, updates in each)))


class Step(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x, train):
        return self.layer(x, train), None


@every_layer
@modes
def test_scan(layer, train):
    axes = {"params": 0, "batch_stats": 0}
    split = {"params": True, "dropout": False}
    lifted = nn.scan(Step, variable_axes=axes, split_rngs=split, in_axes=nn.broadcast, length=3)(layer)
    variables = lifted.init(KEYS, X[0], train)
    if train and layer in RANDOM:  # nn.scan gives a module other random numbers
        assert_random(lifted, variables, X[0])
        return
    (got, _), updates = apply(lifted, variables, X[0], train)
    x: Any = X[0]
    for index in range(3):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], variables)
        (x, _), update = apply(Step(layer), own, x, train)
        assert_same(update, jax.tree.map(lambda leaf, index=index: leaf[index], updates))
    np.testing.assert_allclose(got, x, rtol=1e-5, atol=1e-6)


@modes
def test_sequential_passes_train_to_layers_that_are_lifted_themselves(train):
    axes = {"params": None, "batch_stats": 0}
    norm = nn.vmap(BatchNorm, variable_axes=axes, split_rngs={"params": False}, in_axes=(0, None))
    lifted = Sequential((norm(), nn.remat(Dropout, static_argnums=(2,))(0.5)))
    variables = lifted.init(KEYS, X, train)
    y, _ = apply(lifted, variables, X, train)
    assert ((y == 0).mean() > 0.3) == train
    means = [x.mean((0, 1, 2)) for x in X]
    _, updates = apply(lifted, variables, X, train)
    expected = 0.1 * np.stack(means) if train else np.zeros((3, 2))
    got = (updates.get("batch_stats") or variables["batch_stats"])["layers_0"]["mean"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_train_is_passed_as_a_keyword_to_layers_that_take_it_only_so():
    def keyword_only(x, *, train):
        return x + train

    def third(x, mask=None, train=False):
        return x + 10 * train

    assert Sequential((keyword_only, third)).apply({}, 0, True) == 11
    assert Sequential((keyword_only, third)).apply({}, 0, train=True) == 11
