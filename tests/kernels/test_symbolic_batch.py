"""Training functions exported with a symbolic batch size."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.kernels import native, use
from jaxcnn.layers import AvgPool, BatchNorm, Conv, Dense, Flatten, LayerNorm, LocalResponseNorm, MaxPool, relu


class Network(nn.Module):
    """Both kernels of batch normalization, which depend on the number of channels."""

    @nn.compact
    def __call__(self, x, train):
        x = MaxPool(2)(relu(BatchNorm()(Conv(8, 3, padding=1)(x), train)))
        x = AvgPool(2)(LocalResponseNorm()(BatchNorm()(Conv(32, 1)(x), train)))
        return Dense(3)(BatchNorm()(LayerNorm()(Dense(5)(Flatten()(x))), train))


@pytest.mark.parametrize("choice", ["xla", "native"] if native.is_available() else ["xla"])
def test_a_training_function_is_exported(choice, compile_quickly):
    network, x = Network(), np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(x)

    def loss(params, batch_stats, x):
        y, updates = network.apply({"params": params, "batch_stats": batch_stats}, x, True, mutable=["batch_stats"])
        return jnp.square(y).mean(), updates

    arguments = variables["params"], variables["batch_stats"]
    with use(choice):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (batch,) = jax.export.symbolic_shape("batch")
        exported = jax.export.export(step)(*arguments, jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype))
        ours, expected = exported.call(*arguments, x), step(*arguments, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
