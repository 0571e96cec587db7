"""Training functions exported with a symbolic batch size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.kernels import native, use
from jaxcnn.layers import AvgPool, BatchNorm, Conv, Dense, Flatten, LayerNorm, LocalResponseNorm, MaxPool, relu


class Network(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        x = relu(BatchNorm()(Conv(self.features, 3, padding=1)(x), train))
        x = LocalResponseNorm()(LayerNorm()(MaxPool(2)(x)))
        x = AvgPool(2)(BatchNorm()(Conv(self.features, 1)(x), train))
        return Dense(3)(BatchNorm()(Dense(5)(Flatten()(x)), train))


@pytest.mark.parametrize("choice", ["xla", "native"] if native.is_available() else ["xla"])
@pytest.mark.parametrize("features", [8, 32])
def test_a_training_function_is_exported(features, choice, compile_quickly):
    network, x = Network(features), np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)
    variables = network.init(jax.random.key(0), x, train=False)

    def loss(params, batch_stats, x):
        y, updates = network.apply({"params": params, "batch_stats": batch_stats}, x, True, mutable=["batch_stats"])
        return jnp.square(y).mean(), updates

    with use(choice):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (batch,) = jax.export.symbolic_shape("batch")
        exported = jax.export.export(step)(*variables.values(), jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype))
        arguments = variables["params"], variables["batch_stats"], x
        ours, expected = exported.call(*arguments), step(*arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
