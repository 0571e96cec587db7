"""`norm_relu`: the composition in every mode and dtype, and one kernel in training."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import BatchNorm, LayerNorm, Partial, norm_relu


class Block(nn.Module):
    """A normalization, a residual and a ReLU, by `norm_relu` or as separate operations."""

    norm: Any
    joined: bool

    @nn.compact
    def __call__(self, x, residual, train):
        if self.joined:
            return norm_relu(self.norm(name="norm"), x, train, residual)
        y = self.norm(name="norm")(x, train)
        return nn.relu(y if residual is None else residual + y)


@pytest.mark.parametrize("norm", [BatchNorm, LayerNorm, nn.jit(BatchNorm, static_argnums=(2,))])
@pytest.mark.parametrize("dtypes", [(None, None), ("bfloat16", None), ("bfloat16", "float32"), (None, "bfloat16")])
@pytest.mark.parametrize("train", [False, True])
def test_norm_relu_is_the_composition(norm, dtypes, train):
    """Its dtype too, where that of the residual is another."""
    dtype, of_residual = dtypes
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (4, 6, 6, 8), dtype or jnp.float32)
    for residual in (None, jax.random.normal(keys[1], x.shape, of_residual or x.dtype)):
        found = []
        for joined in (True, False):
            block = Block(Partial(norm, dtype=dtype), joined)
            variables = block.init(keys[0], x, residual, train)
            found.append((variables, *block.apply(variables, x, residual, train, mutable=["batch_stats"])))
        assert jax.tree.map(jnp.shape, found[0]) == jax.tree.map(jnp.shape, found[1])
        assert found[0][1].dtype == found[1][1].dtype
        for ours, right in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
            tolerance = 2**-6 if dtype or of_residual else 1e-6
            np.testing.assert_allclose(ours.astype(np.float32), right.astype(np.float32), tolerance, tolerance)


def test_norm_relu_in_evaluation_is_the_same_program():
    """Which `freezing` can then fold."""
    x = jnp.ones((2, 4, 4, 8))
    programs = []
    for joined in (True, False):
        block = Block(BatchNorm, joined)
        variables = block.init(jax.random.key(0), x, x, False)
        programs.append(str(jax.make_jaxpr(lambda v, x, block=block: block.apply(v, x, 2 * x, False))(variables, x)))
    assert programs[0] == programs[1]


def test_norm_relu_in_training_is_one_kernel():
    x = jnp.ones((2, 4, 4, 8))
    for norm, has_relu in ((BatchNorm, False), (LayerNorm, True)):
        block = Block(norm, joined=True)
        variables = block.init(jax.random.key(0), x, x, True)
        traced = jax.make_jaxpr(lambda v, x, block=block: block.apply(v, x, x, True, mutable=["batch_stats"]))
        assert ("name=relu" in str(traced(variables, x))) == has_relu
