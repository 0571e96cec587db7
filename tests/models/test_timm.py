"""Architectures of ours in timm: their ids are in our table, arrays are read and written, and logits are timm's."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxcnn import weights
from jaxcnn.models import create_model
from jaxcnn.weights import from_file, list_published, published
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import COUNTER, TIMM_ARCHITECTURES
from jaxcnn.weights.naming.timm import ADDED_TO_VARIANCE

torch: Any = pytest.importorskip("torch")
timm: Any = pytest.importorskip("timm")
pytestmark = pytest.mark.slow

NAMES = [name for name in TIMM_ARCHITECTURES if name in timm.list_models()]

# Small models of each family, which CI compares.
SAMPLE = {"vgg11", "resnet18", "densenet121", "convnext_tiny", "regnetx_004_tv", "regnety_004", "mobilenetv2_100"}
SAMPLE |= {"mobilenetv3_small_100", "mnasnet_050", "efficientnet_b0", "efficientnetv2_s", "inception_v3"}
SAMPLED = [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES]

SIZES = ((224, 224), (192, 160))


def ids_of(theirs: str) -> list[str]:
    """Return timm's ids of an architecture, except those that are not on the hub or not for color images."""
    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{theirs}.*")}
    return [name for name, config in configs.items() if config.hf_hub_id and config.input_size[0] == 3]


def test_every_id_of_our_architectures_is_in_the_table():
    theirs = {
        f"timm:{name}": TIMM_ARCHITECTURES[architecture] for architecture in NAMES for name in ids_of(architecture)
    }
    assert {name: published(name).model for name in list_published("timm:*")} == theirs


@pytest.mark.parametrize("theirs", SAMPLED)
def test_every_id_has_its_architecture(theirs):
    with torch.device("meta"):
        expected = str(timm.create_model(theirs, num_classes=10))
        for name in ids_of(theirs):
            assert str(timm.create_model(name, num_classes=10)) == expected, name
            assert published(f"timm:{name}").classes == timm.create_model(name).num_classes


@pytest.mark.parametrize("theirs", ["tf_efficientnet_b0", "tf_efficientnetv2_s", "tf_mobilenetv3_large_100"])
def test_networks_from_tensorflow_are_others(theirs):
    assert theirs not in TIMM_ARCHITECTURES
    with torch.device("meta"):
        assert "Conv2dSame" in str(timm.create_model(theirs))  # its padding depends on the size of the image


def network(theirs: str) -> Any:
    """Return the model of timm with random parameters and statistics, in evaluation mode."""
    torch.manual_seed(0)
    made = timm.create_model(theirs, pretrained=False, num_classes=10).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(1.0, 2.0)  # with smaller ones, deep networks amplify the rounding of torch itself
            elif name.endswith(".gamma"):
                tensor.uniform_(0.2, 0.5)
    return made


@pytest.mark.parametrize("theirs", SAMPLED)
def test_logits_are_timms_and_the_arrays_come_back(theirs):
    name = TIMM_ARCHITECTURES[theirs]
    model: Any = create_model(name, 10, **({"adaptive": True} if name.startswith("vgg") else {}))
    original = network(theirs)
    arrays = {key: tensor.numpy() for key, tensor in original.state_dict().items()}
    stored = {key: Stored(array.shape, array.dtype, lambda array=array: array) for key, array in arrays.items()}
    variables = from_file(name, lambda classes: model, stored).variables
    again, _ = weights.to_timm(name, variables, model)
    assert set(again) == set(arrays)
    for key, array in arrays.items():
        if key.endswith("running_var") and name in ADDED_TO_VARIANCE:
            np.testing.assert_allclose(again[key], array, rtol=1e-6)
        elif not key.endswith(COUNTER):
            np.testing.assert_array_equal(again[key], array)
    apply = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    for height, width in SIZES:
        images = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = original(images).numpy()
        found = apply(variables, images.permute(0, 2, 3, 1).numpy())
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), (height, width)
