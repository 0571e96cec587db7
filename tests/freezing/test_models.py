"""A frozen model returns the logits of the model: every family, and in a slow test every name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from frozen_checks import apply, error, images, operations, random_variables

from jaxcnn.freezing import freeze
from jaxcnn.models import create_model, list_models

TOLERANCE = 1e-5
IN_BFLOAT16 = 2e-2

MODULES = FrozenDict(dict.fromkeys(("4a", "5a"), (8, (8, 8), (8, 8), 8)))
BRANCHES = {"branch1x1": ((8, 1),), "branch3x3": ((8, 1), ((8, (1, 3)), (8, (3, 1)))), "branch_pool": ((8, 1),)}
# The fields that make a model of each family small, the side of its images, and its convolutions, among which are the
# dense layers of ConvNeXt.
SMALL = {
    "lenet5": ({}, 28, 2),
    "lenet5_1998": ({}, 28, None),
    "alexnet": ({"features": (8, 16, 8, 8, 8), "hidden": 32}, 67, 5),
    "alexnet_two_tower": ({"features": (8, 16, 8, 8, 8), "hidden": 32}, 67, 5),
    "vgg11_bn": ({"column": ((3,), (3, 1)), "widths": (8, 8), "hidden": 16}, 8, 3),
    "googlenet_bn": ({"modules": MODULES}, 79, None),
    "resnet18": ({"stage_sizes": (1, 1), "width": 16}, 32, 6),
    "resnet50": ({"stage_sizes": (1, 1), "width": 16}, 32, 9),
    "resnext50_32x4d": ({"stage_sizes": (1, 1), "width": 32}, 32, 9),
    "plain20_cifar": ({}, 32, 19),
    "wide_resnet28_10": ({"stage_sizes": (1, 1), "width": 16}, 16, None),
    "preact_resnet18": ({"stage_sizes": (1, 1), "width": 16}, 32, 6),
    "mobilenet_v2": ({"table": ((1, 8, 1, 1), (6, 8, 2, 2))}, 32, 10),
    "mobilenet_v3_small": ({"table": (((3, 16, 8, True, "RE", 2),), ((5, 24, 8, True, "HS", 1),))}, 32, 11),
    "mnasnet0_5": ({"table": ((1, 8, 1, 1), (6, 8, 2, 2))}, 32, 10),
    "efficientnet_b0": ({"table": ((1, 8, 1, 1), (6, 8, 2, 2))}, 32, 16),
    "efficientnet_v2_s": ({"table": ((1, 8, 2, 1, 3, True), (4, 8, 2, 2, 3, True), (4, 16, 1, 2))}, 32, 13),
    "densenet121": ({"block_sizes": (2, 2), "growth_rate": 4, "stem_width": 8}, 32, 10),
    "convnext_tiny": ({"stage_sizes": (1, 1), "widths": (8, 16), "layer_scale": 1.0}, 32, 8),
    "inception_v3": ({"modules": {"5b": BRANCHES, "6a": {"branch3x3": ((8, 1), (8, 3))}}}, 75, 12),
    "regnet_y_400mf": ({"stage_sizes": (1, 2), "widths": (8, 16), "group_width": 8}, 32, None),
    "shufflenet_v2_x1_0": ({"stage_sizes": (2,), "widths": (16, 32), "stem_width": 8}, 32, 10),
    "squeezenet1_1": ({"stages": (((4, 8),), ((4, 8),)), "stem_width": 8}, 32, 8),
    "speedrun96": ({"widths": (8, 16)}, 16, 7),
}


# Layer normalizations of the small ConvNeXt. They use the variance of each position, which is not known beforehand.
LAYER_NORMS = 5


def made(name, side, **fields):
    model = create_model(name, 10, **fields)
    x = images(2, side, side, 1 if name.startswith("lenet") else 3)
    # The sum of a shortcut and a branch grows from block to block.
    scale = 0.3 if re.search("resne|mobile|mnas|efficient", name) else 0.9
    return model, random_variables(model, x, scale=scale, train=False), x


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("name", SMALL)
def test_every_family(name):
    fields, side, convolutions = SMALL[name]
    model, variables, x = made(name, side, **fields)
    frozen, expected = freeze(model, variables), apply(model, variables, x)
    assert error(frozen(x), expected) < TOLERANCE
    counts = operations(frozen, x)
    assert counts["Affine"] == counts["Convolution"] == counts["BatchNorm"] == counts["Materialize"] == 0
    assert counts["LayerNorm"] == (LAYER_NORMS if name == "convnext_tiny" else 0)
    assert counts["rsqrt"] == 0  # of a variance
    if convolutions is not None:
        assert counts["FusedConvolution"] + counts["ActivatedConvolution"] == convolutions
    narrow = freeze(model, variables, dtype=jnp.bfloat16)(x)
    assert narrow.dtype == jnp.float32
    assert 0 < error(narrow, expected) < IN_BFLOAT16


def test_resnet18_is_twenty_convolutions_a_pool_and_a_product():
    model, variables, x = made("resnet18", 64)
    frozen = freeze(model, variables)
    counts = operations(frozen, x)
    assert counts["FusedConvolution"] == 20
    # The mean over positions, and the bias of the last layer.
    assert counts["add"] == counts["div"] == counts["dot_general"] == 1
    assert not {"Affine", "Convolution", "Materialize", "sub", "mul", "rsqrt", "custom_jvp_call"} & set(counts)
    assert error(frozen(x), apply(model, variables, x)) < TOLERANCE


# Sides of images: of the smallest that a model takes, or of images with some positions left in the last feature map.
SIDES = {
    "alexnet": 63,
    "alexnet_two_tower": 67,
    "googlenet": 64,
    "googlenet_naive": 64,
    "googlenet_bn": 64,
    "inception_v3": 75,
}


@pytest.fixture
def without_cache():
    """Keep programs that contain 100 MB of weights out of the cache on disk."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("compile_quickly", "without_cache")
@pytest.mark.parametrize("name", list_models())
def test_every_model(name):
    side = SIDES.get(name, 28 if name.startswith("lenet5") else 32)
    # The convolutions are those of the paper; the large dense layers are not folded.
    fields = {"hidden": 64} if name.startswith(("alexnet", "vgg")) else {}
    fields |= {"widths": (264, 264, 528, 528)} if name == "regnet_y_128gf" else {}  # of 645 million parameters
    model, variables, x = made(name, side, **fields)
    frozen = freeze(model, variables)
    expected = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)
    assert np.all(np.isfinite(expected))
    assert error(frozen(x), expected) < TOLERANCE
    counts = operations(frozen, x)
    assert counts["Affine"] == counts["Convolution"] == 0
    assert counts["FusedConvolution"] > 0
