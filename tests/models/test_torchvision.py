"""Every convolutional classifier of torchvision is there, with its size, its operations and its logits."""

from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import pytest

from jaxcnn.models import create_model, facts, list_models
from jaxcnn.weights import from_file
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import TORCHVISION_MODEL

torch: Any = pytest.importorskip("torch")
if find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)
try:
    import torchvision
except RuntimeError:  # its compiled operators are of another build than torch; no classifier calls them
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import torchvision
pytestmark = pytest.mark.slow

TRANSFORMERS = ("vit_", "swin_", "maxvit_")
OURS = {theirs: ours for ours, theirs in TORCHVISION_MODEL.items()}
CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
NAMES = [name for name in CLASSIFIERS if not name.startswith(TRANSFORMERS)]

# Small models of each family, which CI compares. The others together take about half an hour on two cores.
SAMPLE = {"alexnet", "vgg11", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5"}
SAMPLE |= {"squeezenet1_1", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "inception_v3", "densenet121"}


def test_everything_else_is_a_transformer():
    others = set(CLASSIFIERS) - set(NAMES)
    assert {name.partition("_")[0] for name in others} == {"vit", "swin", "maxvit"}
    assert {OURS.get(name, name) for name in NAMES} <= set(list_models())


@pytest.mark.parametrize("theirs", NAMES)
def test_parameters_and_operations_are_those_that_torchvision_publishes(theirs):
    meta = torchvision.models.get_model_weights(theirs).DEFAULT.meta
    found = facts(OURS.get(theirs, theirs))
    # torchvision counts the auxiliary heads of Inception v3 and GoogLeNet in the first number, and we do not.
    auxiliary = {"inception_v3": 3_326_696, "googlenet": 0}.get(theirs, 0)
    assert found.params == meta["num_params"] - auxiliary
    if found.image_shape[:2] == size_of(theirs):
        assert found.macs / 1e9 == pytest.approx(meta["_ops"], abs=0.00051 + 0.002 * meta["_ops"])


def size_of(theirs: str) -> tuple[int, int]:
    (side,) = torchvision.models.get_model_weights(theirs).DEFAULT.transforms().crop_size
    return side, side


def network(theirs: str) -> Any:
    """Return the model of torchvision with random parameters and statistics, in evaluation mode."""
    torch.manual_seed(0)
    options = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    made = torchvision.models.get_model(theirs, num_classes=10, **options).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("layer_scale"):
                tensor.uniform_(0.2, 0.5)
    return made


@pytest.mark.parametrize(
    "theirs", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES]
)
def test_logits_are_torchvisions_at_three_sizes(theirs):
    name = OURS.get(theirs, theirs)
    fields = {"adaptive": True} if theirs.startswith(("alexnet", "vgg")) else {}
    model: Any = create_model(name, 10, **fields)
    original = network(theirs)
    stored = {
        key: Stored(tuple(tensor.shape), tensor.numpy().dtype, tensor.numpy)
        for key, tensor in original.state_dict().items()
    }
    variables = from_file(name, lambda classes: model, stored, image_shape=model.image_shape).variables
    # The variables are an argument: XLA would take minutes to fold constants of 130 million parameters.
    apply = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    side = size_of(theirs)[0]
    for height, width in ((side, side), (side, side * 3 // 4), (side * 5 // 4, side)):
        images = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = original(images).numpy()
        found = apply(variables, images.permute(0, 2, 3, 1).numpy())
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), (height, width)
