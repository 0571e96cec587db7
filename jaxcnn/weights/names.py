"""Map module names of jaxcnn to module names of torchvision and timm, with one function for each family of models.

The argument of each function is a model, whose fields state the number of stages and layers. The result maps module
paths in jaxcnn ("stage1_block1/conv1") to the names in the other library ("layer1.0.conv1"). The result may contain
modules that some variants of the model lack.

References:
  The state dicts of torchvision 0.28 and timm 1.0.
"""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.weights.naming import Names, timm
from jaxcnn.weights.naming.efficient import EFFICIENT
from jaxcnn.weights.naming.mobile import MOBILE


def alexnet(model: Any) -> Names:
    convolutions = {f"conv{number}": f"features.{index}" for number, index in enumerate((0, 3, 6, 8, 10), start=1)}
    return {**convolutions, "fc6": "classifier.1", "fc7": "classifier.4", "head": "classifier.6"}


def vgg(model: Any) -> Names:
    names = {"fc6": "classifier.0", "fc7": "classifier.3", "head": "classifier.6"}
    index = 0  # index in torchvision's Sequential, which also counts ReLU and pooling layers
    for stack, kernels in enumerate(model.column, start=1):
        for layer in range(1, len(kernels) + 1):
            names[f"conv{stack}_{layer}"] = f"features.{index}"
            if model.norm is not None:
                index += 1
                names[f"norm{stack}_{layer}"] = f"features.{index}"
            index += 2
        index += 1
    return names


def timm_vgg(model: Any) -> Names:
    """Return the names in timm for VGG, whose first two dense layers are convolutions of 7x7 and 1x1 in timm."""
    return {**vgg(model), "fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "head": "head.fc"}


def googlenet(model: Any) -> Names:
    units = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
    branches = {
        "branch1": "branch1",
        "branch3_reduce": "branch2.0",
        "branch3": "branch2.1",
        "branch5_reduce": "branch3.0",
        "branch5": "branch3.1",
        "branch_pool": "branch4.1",
    }
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        units |= {f"inception{module}/{ours}": f"inception{module}.{theirs}" for ours, theirs in branches.items()}
    names = {"head": "fc"}
    for aux in ("aux1", "aux2"):
        units[f"{aux}/reduce"] = f"{aux}.conv"
        names |= {f"{aux}/fc": f"{aux}.fc1", f"{aux}/head": f"{aux}.fc2"}
    for ours, theirs in units.items():
        names |= {f"{ours}/conv": f"{theirs}.conv", f"{ours}/norm": f"{theirs}.bn"}
    return names


def resnet(model: Any) -> Names:
    names = {"stem/conv": "conv1", "stem/norm": "bn1", "head": "fc"}
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"layer{stage}.{block - 1}"
            for number in (1, 2, 3):
                names |= {
                    f"{ours}/conv{number}": f"{theirs}.conv{number}",
                    f"{ours}/norm{number}": f"{theirs}.bn{number}",
                }
            names |= {
                f"{ours}/shortcut_conv": f"{theirs}.downsample.0",
                f"{ours}/shortcut_norm": f"{theirs}.downsample.1",
            }
    return names


def densenet(model: Any) -> Names:
    names = {"stem/conv": "features.conv0", "stem/norm": "features.norm0", "last_norm": "features.norm5"}
    names["head"] = "classifier"
    for block, layers in enumerate(model.block_sizes, start=1):
        for layer in range(1, layers + 1):
            ours, theirs = f"block{block}_layer{layer}", f"features.denseblock{block}.denselayer{layer}"
            names |= {f"{ours}/{part}": f"{theirs}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
        names |= {f"transition{block}/{part}": f"features.transition{block}.{part}" for part in ("norm", "conv")}
    return names


TORCHVISION: dict[str, Callable[[Any], Names]] = {
    "alexnet": alexnet,
    **{f"vgg{layers}{norm}": vgg for layers in (11, 13, 16, 19) for norm in ("", "_bn")},
    "googlenet_bn": googlenet,
    **{f"resnet{layers}": resnet for layers in (18, 34, 50, 101, 152)},
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"), resnet),
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), resnet),
    **{f"densenet{layers}": densenet for layers in (121, 161, 169, 201)},
    **EFFICIENT,
    **MOBILE,
}
"""Function that returns the names in torchvision, for every model that torchvision has."""

# Function that returns the names in timm, for models whose names in timm differ from the names in torchvision.
TIMM: dict[str, Callable[[Any], Names]] = {
    **{name: timm_vgg for name in TORCHVISION if name.startswith("vgg")},
    **timm.TIMM,
}

# Models whose module names are the same in timm and in torchvision.
SAME_IN_TIMM = tuple(
    name for name in TORCHVISION if name.startswith(("resnet", "resnext", "wide_resnet", "densenet", "inception"))
)

TIMM_ARCHITECTURES = {**{name: name for name in (*TIMM, *SAME_IN_TIMM)}, **timm.TIMM_MODELS}
"""Name of each architecture in jaxcnn, by its name in timm. If both names are equal, the name maps to itself."""

# Channels of the feature map that is flattened before a dense layer. torch flattens [C, H, W], jaxcnn [H, W, C].
FLATTENED_CHANNELS = {
    **{name: {"fc6": 256 if name == "alexnet" else 512} for name in TORCHVISION if name.startswith(("alexnet", "vgg"))},
    "googlenet_bn": {"aux1/fc": 128, "aux2/fc": 128},
}

# Classifiers: layers whose width is the number of classes.
HEADS = ("head", "aux1/head", "aux2/head")

# Names of models in torchvision that differ from the name in jaxcnn.
TORCHVISION_MODEL = {"googlenet_bn": "googlenet"}

# Pattern and replacement for names in files published before torch 0.4.
OLD_NAMES = (re.compile(r"^(features\.denseblock\d+\.denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2.")

# Counter of batches in files since torch 0.4.1. torch uses it only if the momentum of a BatchNorm is None.
COUNTER = "num_batches_tracked"


def torchvision_names(model_name: str, model: nn.Module | None = None) -> Names:
    """Return a dict from module paths in jaxcnn to module names in torchvision.

    Args:
      model_name: name of the model, one of `jaxcnn.list_models()`.
      model: the model itself; required only if its fields differ from those of `create_model(model_name)`.

    Raises:
      UsageError: if the model has no counterpart in torchvision.

    >>> torchvision_names("resnet18")["stage2_block1/shortcut_conv"]
    'layer2.0.downsample.0'
    """
    if model_name not in TORCHVISION:
        raise UsageError(
            f"model has no counterpart in torchvision: {model_name!r}. Use one of {', '.join(TORCHVISION)}."
        )
    return TORCHVISION[model_name](model or create_model(model_name))


def timm_names(model_name: str, model: nn.Module | None = None) -> Names:
    """Return a dict from module paths in jaxcnn to module names in timm, as `torchvision_names` does for torchvision.

    Raises:
      UsageError: if the model has no counterpart in timm, or jaxcnn does not know its names in timm.
    """
    if model_name not in TIMM and model_name not in SAME_IN_TIMM:
        known = ", ".join(sorted({*TIMM, *SAME_IN_TIMM}))
        raise UsageError(f"the names in timm are not known for {model_name!r}. Use one of {known}.")
    return TIMM.get(model_name, TORCHVISION[model_name])(model or create_model(model_name))
