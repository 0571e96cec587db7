"""Receptive fields of whole models agree with the published ones and with gradients."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcnn.analysis import Row, summarize
from jaxcnn.models import create_model, features


def rows_of(name: str) -> dict[str, Row]:
    model = create_model(name)
    return {row.name: row for row in summarize(model, model.image_shape).rows}


@pytest.mark.parametrize(
    ("name", "layer", "field", "stride"),
    [
        # Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, 2019.
        ("vgg16", "conv5_3", 196, 16),
        ("vgg16", "pool5", 212, 32),
        ("alexnet", "MaxPool_2", 195, 32),
        ("alexnet_two_tower", "MaxPool_2", 195, 32),
        ("resnet50", "stage4_block3/norm3", 427, 32),
        ("resnet50_v1", "stage4_block3/norm3", 483, 32),
    ],
)
def test_fields_and_strides_agree_with_the_published_ones(name, layer, field, stride):
    row = rows_of(name)[layer]
    assert (row.receptive_field, row.stride) == ((field, field), (stride, stride))


# Fewer blocks and channels, but every kind of block and every stride. Each has a layer, and an image larger than the
# layer's field.
MODELS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "lenet5": ("lenet5", {"activation": nn.softplus, "padding": 0}, "MaxPool_1", 31),
    "lenet5_1998": ("lenet5_1998", {"padding": 0}, "S4", 32),
    "alexnet": ("alexnet", {"features": (4,) * 5, "hidden": 4}, "conv3", 131),
    "vgg16": ("vgg16", {"widths": (2,) * 5, "hidden": 4}, "conv3_3", 63),
    "googlenet": ("googlenet", {"modules": {"3a": (2, (2, 2), (2, 2), 2)}}, "inception3a", 95),
    "resnet18": ("resnet18", {"stage_sizes": (1, 1), "width": 4}, "stage2_block1", 95),
    "resnet50": ("resnet50", {"stage_sizes": (1, 2), "width": 4}, "stage2_block2", 95),
    "resnet50_v1": ("resnet50_v1", {"stage_sizes": (1, 2), "width": 4}, "stage2_block2", 95),
    "preact_resnet164_cifar": ("preact_resnet164_cifar", {"stage_sizes": (1, 1, 1), "width": 4}, "last_norm", 31),
    "convnext_tiny": (
        "convnext_tiny",
        {"stage_sizes": (1, 1), "widths": (4, 4), "layer_scale": 1.0},
        "stage1_block1",
        63,
    ),
    "regnet_x_400mf": (
        "regnet_x_400mf",
        {"stage_sizes": (1, 1), "widths": (4, 4), "group_width": 4},
        "stage2_block1",
        63,
    ),
    "shufflenet": ("shufflenet_v2_x1_0", {"stage_sizes": (2,), "widths": (8, 8)}, "stage2_block2", 95),
    "squeezenet1_1": ("squeezenet1_1", {"stages": (((2, 4),), ((2, 4),)), "stem_width": 4}, "fire3", 63),
    "densenet_bc100_k12": ("densenet_bc100_k12", {"block_sizes": (2, 2), "growth_rate": 2}, "last_norm", 31),
}


# By default: convolutions with padding and pooling, branches, shortcuts with a projection, and concatenation.
SAMPLE = {"lenet5", "googlenet", "resnet50", "densenet_bc100_k12"}


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in MODELS],
)
def test_fields_agree_with_gradients(model):
    name, fields, tap, size = MODELS[model]
    model = create_model(name, 10, **fields)
    shape = (1, size, size, model.image_shape[2])
    images = np.random.default_rng(0).uniform(0.5, 1.5, (4, *shape)).astype(np.float32)
    variables = jax.device_get(jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images[0]))
    # With positive parameters no two paths cancel, and no unit is cut off by a ReLU.
    params = jax.tree.map(lambda p: np.abs(p) * np.float32(0.1) + np.float32(1e-3), variables["params"])

    def middle(x: jax.Array) -> jax.Array:
        y = features(model, {**variables, "params": params}, x, at=tap)
        row, column = y.shape[1] // 2, y.shape[2] // 2
        return y[:, row, column].sum()

    # Four images: a maximum passes the gradient to one of its inputs only, and which one differs between them.
    gradient = jax.jit(jax.grad(middle))
    total = sum(np.abs(gradient(x)) for x in images)
    seen = tuple(np.ptp(np.flatnonzero(total.sum(axes))) + 1 for axes in ((0, 2, 3), (0, 1, 3)))
    rows = [row for row in summarize(model, shape).rows if row.name == tap or row.name.startswith(f"{tap}/")]
    fields_of_tap = max(row.receptive_field or (0, 0) for row in rows)
    assert seen == fields_of_tap
    assert max(seen) < size  # no border cut it off
