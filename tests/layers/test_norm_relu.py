"""`norm_relu` and `norm_relu_pool`: the composition in every mode and dtype, and one kernel in training."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import kernels
from jaxcnn.layers import AvgPool, BatchNorm, LayerNorm, MaxPool, Partial, norm_relu, norm_relu_pool
from jaxcnn.models import create_model, features


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


class Pooled(nn.Module):
    """A normalization, a ReLU and a pooling, by `norm_relu_pool` or as separate operations."""

    norm: Any
    pool: Any
    joined: bool

    @nn.compact
    def __call__(self, x, train):
        norm, pool = self.norm(name="norm"), self.pool(3, 2, padding=1, name="pool")
        return norm_relu_pool(norm, pool, x, train) if self.joined else pool(norm_relu(norm, x, train))


@pytest.mark.parametrize("norm", [BatchNorm, LayerNorm, nn.jit(BatchNorm, static_argnums=(2,))])
@pytest.mark.parametrize("pool", [MaxPool, AvgPool])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", [False, True])
def test_norm_relu_pool_is_the_composition(norm, pool, dtype, train):
    x = jax.random.normal(jax.random.key(0), (4, 6, 7, 8), dtype)
    found = []
    for joined in (True, False):
        block = Pooled(Partial(norm, dtype=dtype), pool, joined)
        variables = block.init(jax.random.key(1), x, train)
        found.append((variables, block.apply(variables, x, train, mutable=["batch_stats"])))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    for ours, right in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        assert (ours.shape, ours.dtype) == (right.shape, right.dtype)
        np.testing.assert_allclose(ours.astype(np.float32), right.astype(np.float32), 2**-7, 1e-6)


def test_frozen_statistics_and_features_work_through_a_pooling():
    """A frozen normalization is called as in evaluation, with the arguments of training."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(1), x, False)
    windows = kernels.Windows((3, 3), (2, 2), ((1, 1), (1, 1)))
    frozen = norm.apply(variables, x, False, relu=True, windows=windows)
    np.testing.assert_array_equal(frozen, MaxPool(3, 2, padding=1)(nn.relu(norm.apply(variables, x, False))))

    model, images = create_model("resnet18", 10), jnp.ones((2, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    paths = ["stem/norm", "stem/pool"]
    for train, size in ((False, 16), (True, 8)):
        found = jax.eval_shape(lambda v, train=train: features(model, v, images, at=paths, train=train), variables)
        assert [found[path].shape[1] for path in paths] == [size, 8]
