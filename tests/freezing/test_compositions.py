"""What is folded in a user's own model, and what is not."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from frozen_checks import apply, check, error, images, operations, random_variables

from jaxcnn.freezing import freeze
from jaxcnn.layers import (
    GELU,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    Flatten,
    HardSwish,
    LayerNorm,
    LayerScale,
    MaxPool,
    ReLU,
    ReLU6,
    Residual,
    Sequential,
    SiLU,
    silu,
)

X = images(2, 12, 12, 8)


def conv(features=8, size=3, **fields):
    return Conv(features, size, **{"padding": size // 2, **fields})


COMPOSITIONS = {
    "batch norm and ReLU": ([conv(), BatchNorm(), ReLU()], 1),
    "without bias": ([conv(use_bias=False), BatchNorm(), ReLU()], 1),
    "ReLU alone": ([conv(), ReLU()], 1),
    "nothing": ([conv()], 1),
    "nothing, without bias": ([conv(use_bias=False)], 1),
    "two batch norms": ([conv(), BatchNorm(), BatchNorm(), ReLU(), ReLU()], 1),
    "groups": ([conv(feature_group_count=4), BatchNorm(), ReLU()], 1),
    "strides, without scale": ([conv(16, strides=2), BatchNorm(use_scale=False)], 1),
    "dilation": ([conv(kernel_dilation=2, padding=2), BatchNorm(use_bias=False), ReLU()], 1),
    "pooling between": ([conv(16, 1), BatchNorm(), ReLU(), conv(8, 1), MaxPool(2), BatchNorm(), ReLU()], 2),
    "residual block": ([Residual(Sequential([conv(), BatchNorm(), ReLU(), conv(), BatchNorm()])), ReLU()], 2),
    "residual block with shortcut": (
        [Residual(Sequential([conv(16), BatchNorm()]), Sequential([conv(16, 1), BatchNorm()])), ReLU()],
        2,
    ),
    "preactivation": ([Residual(Sequential([BatchNorm(), ReLU(), conv(), BatchNorm(), ReLU(), conv()]))], 2),
    "concatenation": ([Concat([conv(4), Sequential([conv(4, 1), BatchNorm()])]), ReLU()], 2),
    "dropout and dense": ([conv(), Dropout(0.5), BatchNorm(), ReLU(), Flatten(), Dense(5), Dropout(0.5)], 1),
    "other layers": ([conv(), GELU(), LayerNorm(), AvgPool(2)], 1),
    "no convolution": ([BatchNorm(), Flatten(), Dense(7), ReLU()], 0),
}
"""Layers in sequence, and the number of convolutions into which they are folded."""


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_layers(name):
    layers, fused = COMPOSITIONS[name]
    check(Sequential(layers), X, fused, Affine=0, Convolution=0)


def dense_layer():
    added = [BatchNorm(), ReLU(), conv(16, 1, use_bias=False), BatchNorm(), ReLU(), conv(4, use_bias=False)]
    return Concat([Sequential([]), Sequential(added)])


# Layers, the number of convolutions that take in what precedes them, and of those that do not.
PRECEDED = {
    "dense layers": ([conv(), dense_layer(), dense_layer(), BatchNorm(), ReLU(), conv(16, 1)], 3, 3),
    "two batch norms": ([BatchNorm(), BatchNorm(), ReLU(), conv(16, 1)], 1, 0),
    "without ReLU": ([BatchNorm(), conv(16, 1)], 0, 1),
    "without batch norm": ([ReLU(), conv(16, 1)], 0, 1),
    "strides": ([BatchNorm(), ReLU(), conv(16, 1, strides=2)], 0, 1),
    "padding": ([BatchNorm(), ReLU(), conv(16, 1, padding=1)], 0, 1),
    "groups": ([BatchNorm(), ReLU(), conv(16, 1, feature_group_count=2)], 0, 1),
    "read twice": ([BatchNorm(), ReLU(), Concat([conv(16, 1), conv(16, 1)])], 0, 2),
    "residual": ([Residual(Sequential([BatchNorm(), ReLU(), conv(8, 1)]))], 0, 1),
    "after a convolution": ([conv(), BatchNorm(), ReLU(), conv(16, 1)], 0, 2),
}


@pytest.mark.parametrize("name", PRECEDED)
def test_layers_before_a_convolution(name):
    layers, preceded, others = PRECEDED[name]
    found = check(Sequential(layers), X, others, ActivatedConvolution=preceded)
    assert operations(found, X)["concatenate"] == (name == "read twice")


def test_a_convolution_with_all_that_follows_is_one_operation():
    block = Residual(Sequential([conv(), BatchNorm(), ReLU(), conv(use_bias=False), BatchNorm()]))
    frozen = check(Sequential([block, ReLU()]), X, 2)
    assert set(operations(frozen, X)) == {"jit", "FusedConvolution"}


def test_a_batch_norm_before_a_convolution_is_one_product_and_one_sum():
    frozen = check(Sequential([BatchNorm(), ReLU(), conv(padding=1)]), X, 1)
    counts = operations(frozen, X)
    assert counts["mul"] == counts["add"] == 1
    assert counts["sub"] == 0


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        layer, norm = conv(), BatchNorm()
        return jax.nn.relu(norm(layer(jax.nn.relu(norm(layer(x), train))), train))


class ReadTwice(nn.Module):
    """The output of the convolution has two readers, so that the batch normalization must stay apart."""

    @nn.compact
    def __call__(self, x, train: bool):
        y = conv(name="conv")(x)
        return BatchNorm()(y, train) + jnp.tanh(y)


class Outputs(nn.Module):
    """The output of the convolution is an output of the model."""

    @nn.compact
    def __call__(self, x, train: bool):
        y = conv()(x)
        return {"features": y, "normalized": nn.relu(BatchNorm()(y, train)), "constant": jnp.arange(3.0)}


class Plain(nn.Module):
    """Flax's own layers: no kernel of jaxcnn, and no `train`."""

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(6, (3, 3), padding="SAME")(x)
        y = nn.relu(nn.BatchNorm(use_running_average=True)(y))
        return nn.Dense(3)(y.mean((1, 2)))


class Controlled(nn.Module):
    """Convolutions within a loop, within a branch, and with a kernel that depends on the image."""

    @nn.compact
    def __call__(self, x, train: bool):
        kernel = self.param("kernel", nn.initializers.normal(), (3, 3, 8, 8))

        def step(x: Any, _: Any):
            return jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS)), None

        x, _ = jax.lax.scan(step, x, None, length=2)
        x = jax.lax.cond(x.sum() > 0, lambda x: step(x, None)[0], lambda x: 2 * x, x)
        dynamic = kernel * x.mean()
        return jax.lax.conv_general_dilated(x, dynamic, (1, 1), "SAME", dimension_numbers=LAYOUTS)


LAYOUTS = ("NHWC", "HWIO", "NHWC")


def test_a_shared_convolution_is_folded_at_each_use():
    check(Shared(), X, 2, Affine=0)


def test_a_convolution_that_is_read_twice_keeps_its_output():
    check(ReadTwice(), X, 1, Affine=0, mul=1)


def test_loops_branches_and_dynamic_kernels_stay_as_they_are():
    check(Controlled(), X, 0, scan=1, cond=1)


@pytest.mark.parametrize("activation", [ReLU6(), SiLU(), HardSwish(), GELU()])
def test_an_activation_is_a_part_of_the_convolution(activation):
    frozen = check(Sequential([conv(), BatchNorm(), activation]), X, 1)
    assert set(operations(frozen, X)) == {"jit", "FusedConvolution"}


class ActivatedAndAdded(nn.Module):
    """A convolution whose output is read by an activation, and by a sum."""

    @nn.compact
    def __call__(self, x, train=False):
        x = conv()(x)
        return silu(x) + x


@pytest.mark.parametrize("model", [ActivatedAndAdded(), Sequential([conv(), GELU(approximate=True)])])
def test_what_is_not_an_activation_alone_stays(model):
    assert operations(check(model, X, 1), X)["mul"] > 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (jnp.bfloat16, 2e-2)])
def test_dense_layers_of_images_are_convolutions(dtype, tolerance):
    model = Sequential([conv(), Residual(Sequential([Dense(32), GELU(), Dense(8), LayerScale(0.5)])), Dense(3)])
    variables = random_variables(model, X, train=False)
    frozen = freeze(model, variables, dtype=dtype)
    assert error(frozen(X), apply(model, variables, X)) < tolerance
    counts = operations(frozen, X)
    assert (counts["FusedConvolution"], counts["dot_general"]) == (3, 1)


def test_outputs_keep_their_structure():
    model = Outputs()
    variables = random_variables(model, X, train=False)
    ours, theirs = freeze(model, variables)(X), apply(model, variables, X)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert error(mine, other) < 1e-5
    assert operations(freeze(model, variables), X)["FusedConvolution"] == 1


def test_layers_of_flax_are_folded():
    model = Plain()
    variables = random_variables(model, X)
    frozen = freeze(model, variables)
    assert error(frozen(X), model.apply(variables, X)) < 1e-5
    counts = operations(frozen, X)
    assert counts["FusedConvolution"] == 1
    assert counts["rsqrt"] == counts["mul"] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_model_in_half_precision(dtype):
    layers = [conv(dtype=dtype), BatchNorm(dtype=dtype), ReLU(), Residual(conv(dtype=dtype)), Flatten(), Dense(5)]
    model = Sequential(layers)
    variables = random_variables(model, X, train=False)
    frozen = freeze(model, variables)
    ours, theirs = frozen(X), apply(model, variables, X)
    assert ours.dtype == theirs.dtype
    assert error(ours, theirs) < 2e-2
    counts = operations(frozen, X)
    assert counts["FusedConvolution"] == 2
    assert counts["Affine"] == 0


@pytest.mark.parametrize(("dtype", "expected"), [(None, 0), (jnp.bfloat16, 2), (jnp.float16, 0)])
def test_dense_layers_with_a_relu_are_convolutions_in_bfloat16(dtype, expected):
    layers = [Flatten(), Dense(64), ReLU(), Dropout(0.5), Dense(32), ReLU(), Dense(16), Residual(Dense(16)), ReLU()]
    model = Sequential([*layers, Dense(5)])
    variables = random_variables(model, X, train=False)
    frozen, theirs = freeze(model, variables, dtype=dtype), apply(model, variables, X)
    assert error(frozen(X), theirs) < (1e-5 if dtype is None else 2e-2)
    counts = operations(frozen, X)
    assert counts["FusedConvolution"] == expected
    assert counts["dot_general"] == 5 - expected
    assert error(jax.vmap(frozen)(jnp.stack([X, -X]))[0], theirs) < 2e-2


def test_values_that_do_not_fold_stay_apart():
    model = Sequential([conv(use_bias=False), BatchNorm(epsilon=0.0)])
    variables = random_variables(model, X, train=False)
    variables["batch_stats"]["layers_1"]["var"][2] = 0.0  # a factor of infinity, and infinite or undefined outputs
    ours, theirs = freeze(model, variables)(X), apply(model, variables, X)
    assert jnp.array_equal(jnp.isnan(ours), jnp.isnan(theirs))
    assert jnp.array_equal(jnp.isinf(ours), jnp.isinf(theirs))


def test_the_kernel_of_a_dense_layer_in_bfloat16_is_rounded_once():
    model, x = Sequential([Dense(8, dtype=jnp.bfloat16)]), images(4, 16)
    frozen = check(model, x, 0, tolerance=1e-6, Dense=0, dot_general=1)
    program = jax.jit(frozen).lower(x).as_text()
    assert "tensor<16x8xbf16>" in program
    assert "tensor<16x8xf32>" not in program
