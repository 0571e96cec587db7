"""A network exported as ONNX gives the network's own predictions in ONNX Runtime."""

import dataclasses
import re
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.errors import RunError
from jaxcnn.export import export
from jaxcnn.export.onnx import TOLERANCE, convert
from jaxcnn.models import create_model, list_models
from jaxcnn.train import load_run

# Fields that make a model of each kind of block small enough for a fast test.
MODULES = FrozenDict(dict.fromkeys(("4a", "5a"), (8, (8, 8), (8, 8), 8)))
SMALL = {
    "lenet5_1998": {},
    "googlenet": {"modules": MODULES},
    "preact_resnet18": {"stage_sizes": (1, 1), "width": 16},
    "resnet20_cifar": {},
    "densenet121": {"block_sizes": (2, 2), "growth_rate": 4, "stem_width": 8},
    "convnext_tiny": {"stage_sizes": (1, 1), "widths": (8, 16), "layer_scale": 1.0},
    "regnet_y_400mf": {"stage_sizes": (1, 1), "widths": (8, 16), "group_width": 8},
    "shufflenet_v2_x1_0": {"stage_sizes": (2,), "widths": (16, 32), "stem_width": 8},
    "squeezenet1_1": {"stages": (((4, 8),), ((4, 8),)), "stem_width": 8},
    "mobilenet_v2": {"table": ((1, 8, 1, 1), (6, 8, 2, 2))},
    "mobilenet_v3_small": {"table": (((3, 16, 8, True, "RE", 2),), ((5, 24, 8, True, "HS", 1),))},
    "efficientnet_v2_s": {"table": ((4, 8, 2, 2, 3, True), (4, 16, 1, 2))},
    "speedrun96": {"widths": (8, 16)},
}

# Layers over the channels of a position, and channel shuffles, are computed with the channels last or apart.
TRANSPOSES = {"convnext_tiny": 13, "regnet_y_400mf": 3, "shufflenet_v2_x1_0": 8}

# The models that CI exports: one of each family, and a deep one.
SAMPLE = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "lenet5",
    "mnasnet1_0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "plain20_cifar",
    "preact_resnet18",
    "regnet_y_400mf",
    "resnet50",
    "resnet110_cifar",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg11",
    "wide_resnet28_10",
)

# Sides of images: of the smallest that a model takes, or of images with some positions left in the last feature map.
SIDES = {"alexnet": 63, "alexnet_two_tower": 67, "googlenet": 64, "googlenet_naive": 64, "inception_v3": 75}


def random_array(name, path, shape):
    """Return random values under which activations neither grow nor become chaotic, even in a thousand layers."""
    values = np.random.default_rng(len("/".join(path))).normal(size=shape)
    if path[-1] == "kernel":
        return values * np.sqrt(2 / np.prod(shape[:-1]))
    if path[-1] == "scale":
        # The sum of a shortcut and a branch grows.
        return (0.3 if re.search("resne|mobile|mnas|efficient", name) else 0.9) * np.exp(0.2 * values)
    return np.exp(0.2 * values) if path[-1] == "var" else 0.1 * values


def with_model(trained, name, side, **fields):
    """Return the trained network with another model, of random weights."""
    model = create_model(name, 10, **fields)
    channels = 1 if name.startswith("lenet") else 3
    shape = (side, side, channels)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))
    arrays = {
        path: random_array(name, path, leaf.shape).astype(leaf.dtype) for path, leaf in flatten_dict(shapes).items()
    }
    preprocessing = dataclasses.replace(
        trained.preprocessing, image_shape=shape, mean=(0.4, 0.5, 0.6)[:channels], std=(0.2, 0.3, 0.25)[:channels]
    )
    config = dataclasses.replace(trained.config, model=name)
    variables = unflatten_dict(arrays)
    return dataclasses.replace(trained, config=config, model=model, variables=variables, preprocessing=preprocessing)


def run(content, images):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def test_onnxruntime_predicts_the_same(lenet_run, images, tmp_path):
    trained = load_run(lenet_run.workdir)
    out = tmp_path / "network.onnx"
    export(trained, "onnx", out)
    ours = np.asarray(trained.logits(images))
    theirs = run(out.read_bytes(), images)
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(theirs.argmax(1), ours.argmax(1))


def exported(trained):
    """Return the ONNX model. `convert` compares its logits with those of the network, for one image and for several."""
    model = onnx.load_from_string(convert(trained))
    onnx.checker.check_model(model)
    return model.graph


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("name", SMALL)
def test_each_kind_of_block_is_exported(name, lenet_run):
    graph = exported(with_model(load_run(lenet_run.workdir), name, SIDES.get(name, 32), **SMALL[name]))
    # Images are transposed before the first convolution, and feature maps before they are flattened.
    assert Counter(node.op_type for node in graph.node)["Transpose"] <= TRANSPOSES.get(name, 2)
    assert any(initializer.name.endswith("/kernel") for initializer in graph.initializer)


@pytest.mark.slow
@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize(
    "name",
    [
        name if name in SAMPLE else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in list_models()
        if name != "regnet_y_128gf"  # 2.6 GB, and an ONNX model holds 2 GB
    ],
)
def test_every_model_is_exported(name, lenet_run):
    exported(with_model(load_run(lenet_run.workdir), name, SIDES.get(name, 32)))


@pytest.mark.usefixtures("compile_quickly")
def test_mirror_images_and_half_precision_are_exported(lenet_run):
    trained = load_run(lenet_run.workdir)
    mirrored = dataclasses.replace(trained, config=dataclasses.replace(trained.config, tta="flip"))
    half = dataclasses.replace(
        trained,
        config=dataclasses.replace(trained.config, dtype="bfloat16"),
        model=trained.model.clone(dtype=jnp.bfloat16),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    logits = np.asarray(trained.logits(images))
    backwards = np.asarray(trained.logits(images[:, :, ::-1]))
    scale = np.abs(logits).max()
    np.testing.assert_allclose(run(convert(mirrored), images), (logits + backwards) / 2, atol=TOLERANCE * scale)
    np.testing.assert_allclose(run(convert(half), images), logits, atol=TOLERANCE * scale)
    shifted = dataclasses.replace(trained, config=dataclasses.replace(trained.config, tta="flip_shift"))
    expected = np.asarray(shifted.logits(images))
    assert np.abs(expected - logits).max() > 100 * TOLERANCE * scale
    np.testing.assert_allclose(run(convert(shifted), images), expected, atol=TOLERANCE * scale)


def test_a_network_that_onnx_cannot_express_is_one_line(lenet_run, tmp_path):
    trained = load_run(lenet_run.workdir)

    class Sorted(nn.Module):
        def __call__(self, x, train):
            return jnp.sort(x.mean((1, 2)), -1)

    with pytest.raises(RunError, match=r"cannot express lenet5 in ONNX: the operation sort is not supported\. Use"):
        export(dataclasses.replace(trained, model=Sorted()), "onnx", tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
