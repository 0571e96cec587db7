"""Names in torchvision of the modules in `jaxcnn.models.efficient`, in the form of `jaxcnn.weights.names`."""

from collections.abc import Callable
from typing import Any

from jaxcnn.weights.naming import Names


def convnext(model: Any) -> Names:
    names = {"stem_conv": "features.0.0", "stem_norm": "features.0.1"}
    layers = {"conv": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        if stage > 1:
            names |= {
                f"downsample{stage}_{layer}": f"features.{2 * stage - 2}.{index}"
                for index, layer in enumerate(("norm", "conv"))
            }
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"features.{2 * stage - 1}.{block - 1}"
            names |= {f"{ours}/{layer}": f"{theirs}.{name}" for layer, name in layers.items()}
            names[f"{ours}/scale"] = theirs  # the block itself has the parameter
    return {**names, "last_norm": "classifier.0", "head": "classifier.2"}


def inception_v3(model: Any) -> Names:
    stem = {"1a": "3x3", "2a": "3x3", "2b": "3x3", "3b": "1x1", "4a": "3x3"}
    units = {f"conv{layer}": f"Conv2d_{layer}_{size}" for layer, size in stem.items()}
    for module, branches in model.modules.items():
        for branch, sizes in branches.items():
            theirs = branch.replace("_double", "dbl")
            for number, size in enumerate(sizes, start=1):
                for letter in "ab" if isinstance(size[0], tuple) else ("",):
                    unit = theirs if len(sizes) == 1 else f"{theirs}_{number}{letter}"
                    units[f"mixed{module}/{branch}_{number}{letter}"] = f"Mixed_{module}.{unit}"
    units |= {"aux1/reduce": "AuxLogits.conv0", "aux1/conv": "AuxLogits.conv1"}
    names = {"head": "fc", "aux1/head": "AuxLogits.fc"}
    for ours, theirs in units.items():
        names |= {f"{ours}/conv": f"{theirs}.conv", f"{ours}/norm": f"{theirs}.bn"}
    return names


def regnet(model: Any) -> Names:
    names = {"stem/conv": "stem.0", "stem/norm": "stem.1", "head": "fc"}
    units = {"1": "f.a", "2": "f.b", "3": "f.c"}
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"trunk_output.block{stage}.block{stage}-{block - 1}"
            for number, unit in units.items():
                names |= {f"{ours}/conv{number}": f"{theirs}.{unit}.0", f"{ours}/norm{number}": f"{theirs}.{unit}.1"}
            names |= {f"{ours}/squeeze/reduce": f"{theirs}.f.se.fc1", f"{ours}/squeeze/expand": f"{theirs}.f.se.fc2"}
            names |= {f"{ours}/shortcut_conv": f"{theirs}.proj.0", f"{ours}/shortcut_norm": f"{theirs}.proj.1"}
    return names


def shufflenet_v2(model: Any) -> Names:
    names = {"stem/conv": "conv1.0", "stem/norm": "conv1.1", "last_conv": "conv5.0", "last_norm": "conv5.1"}
    names["head"] = "fc"
    layers = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 5, "norm3": 6}
    shortcut = ("shortcut_conv1", "shortcut_norm1", "shortcut_conv2", "shortcut_norm2")
    for stage, units in enumerate(model.stage_sizes, start=2):
        for unit in range(1, units + 1):
            ours, theirs = f"stage{stage}_block{unit}", f"stage{stage}.{unit - 1}"
            names |= {f"{ours}/{layer}": f"{theirs}.branch2.{index}" for layer, index in layers.items()}
            names |= {f"{ours}/{layer}": f"{theirs}.branch1.{index}" for index, layer in enumerate(shortcut)}
    return names


def squeezenet(model: Any) -> Names:
    names, number, index = {"conv1/conv": "features.0", "head": "classifier.1"}, 2, 2
    for fires in model.stages:
        index += 1  # a pooling
        for _ in fires:
            for layer in ("squeeze", "expand1x1", "expand3x3"):
                names[f"fire{number}/{layer}/conv"] = f"features.{index}.{layer}"
            number, index = number + 1, index + 1
    return names


EFFICIENT: dict[str, Callable[[Any], Names]] = {
    **{f"convnext_{size}": convnext for size in ("tiny", "small", "base", "large")},
    "inception_v3": inception_v3,
    **{
        f"regnet_{kind}_{size}": regnet
        for kind in "xy"
        for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    },
    "regnet_y_128gf": regnet,
    **{f"shufflenet_v2_x{width}": shufflenet_v2 for width in ("0_5", "1_0", "1_5", "2_0")},
    **{f"squeezenet1_{version}": squeezenet for version in (0, 1)},
}
"""Function that returns the names in torchvision, by the name of the model in jaxcnn."""
