"""Module names in timm 1.0.31 that differ from the module names in torchvision."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from jaxcnn.weights.naming import Names
from jaxcnn.weights.naming.mobile import EXCITATION, parts_of_bneck, parts_of_row


def convnext(model: Any) -> Names:
    names = {"stem_conv": "stem.0", "stem_norm": "stem.1", "last_norm": "head.norm", "head": "head.fc"}
    layers = {"conv": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        for index, layer in enumerate(("norm", "conv")):
            names[f"downsample{stage}_{layer}"] = f"stages.{stage - 1}.downsample.{index}"
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"stages.{stage - 1}.blocks.{block - 1}"
            names |= {f"{ours}/{layer}": f"{theirs}.{name}" for layer, name in layers.items()}
            names[f"{ours}/scale/gamma"] = f"{theirs}.gamma"
    return names


def regnet(model: Any) -> Names:
    names = {"stem/conv": "stem.conv", "stem/norm": "stem.bn", "head": "head.fc"}
    for stage, blocks in enumerate(model.stage_sizes, start=1):
        for block in range(1, blocks + 1):
            ours, theirs = f"stage{stage}_block{block}", f"s{stage}.b{block}"
            for part in ("conv", "norm"):
                name = {"conv": "conv", "norm": "bn"}[part]
                names |= {f"{ours}/{part}{number}": f"{theirs}.conv{number}.{name}" for number in (1, 2, 3)}
                names[f"{ours}/shortcut_{part}"] = f"{theirs}.downsample.{name}"
            names |= {f"{ours}/squeeze/reduce": f"{theirs}.se.fc1", f"{ours}/squeeze/expand": f"{theirs}.se.fc2"}
    return names


# Names in timm of the convolutions and norms of a block, by the block's parts in jaxcnn. timm does not number the
# squeeze-and-excitation, "se".
BLOCKS = {
    ("expand", "depthwise", "project"): (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    ("depthwise", "project"): (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    ("fused", "project"): (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    ("fused",): (("conv", "bn1"),),
}


def inverted_residuals(model: Any) -> Names:
    """Return the names in timm for MobileNetV2, MnasNet, EfficientNet and EfficientNetV2."""
    names = {**_unit("stem", "conv_stem", "bn1"), **_unit("last", "conv_head", "bn2"), "head": "classifier"}
    for stage, row in enumerate(model.rows):
        for block in range(row.blocks):
            names |= _block(f"stage{stage + 1}_block{block + 1}", f"blocks.{stage}.{block}", parts_of_row(row))
    return names


def mobilenet_v3(model: Any) -> Names:
    names = {**_unit("stem", "conv_stem", "bn1"), "fc": "conv_head", "head": "classifier"}
    blocks = [(f"stage{n}_block{m}", row) for n, rows in enumerate(model.table, 1) for m, row in enumerate(rows, 1)]
    stage, inputs = 0, model.stem_features
    # In timm, a stage ends where the number of output channels changes.
    for stage, (_, group) in enumerate(itertools.groupby(blocks, key=lambda block: block[1].features)):
        for index, (ours, row) in enumerate(group):
            block = model.bneck(row).keywords
            names |= _block(ours, f"blocks.{stage}.{index}", parts_of_bneck(block, inputs))
            inputs = block["features"]
    return {**names, **_unit("last", f"blocks.{stage + 1}.0.conv", f"blocks.{stage + 1}.0.bn1")}


def _unit(ours: str, conv: str, norm: str) -> Names:
    return {f"{ours}/conv": conv, f"{ours}/norm": norm}


def _block(ours: str, theirs: str, parts: Iterable[str]) -> Names:
    units = tuple(part for part in parts if part != EXCITATION)
    names = {f"{ours}/{EXCITATION}/{field}": f"{theirs}.se.conv_{field}" for field in ("reduce", "expand")}
    for part, (conv, norm) in zip(units, BLOCKS[units], strict=True):
        names |= _unit(f"{ours}/{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
    return names


TIMM: dict[str, Callable[[Any], Names]] = {
    **{f"convnext_{size}": convnext for size in ("tiny", "small", "base", "large")},
    **{
        f"regnet_{kind}_{size}": regnet
        for kind in "xy"
        for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    },
    "regnet_y_128gf": regnet,
    "mobilenet_v2": inverted_residuals,
    "mobilenet_v3_large": mobilenet_v3,
    "mobilenet_v3_small": mobilenet_v3,
    **{f"mnasnet{width}": inverted_residuals for width in ("0_5", "0_75", "1_0")},
    **{f"efficientnet_b{number}": inverted_residuals for number in range(8)},
    **{f"efficientnet_v2_{size}": inverted_residuals for size in "sml"},
}
"""Function that returns the names in timm, by the name of the model in jaxcnn."""

DENSE_AS_CONVOLUTION = {
    **{f"vgg{layers}{norm}": ("fc6", "fc7") for layers in (11, 13, 16, 19) for norm in ("", "_bn")},
    "mobilenet_v3_large": ("fc",),
    "mobilenet_v3_small": ("fc",),
}
"""Dense layers of jaxcnn that are convolutions in timm, by the name of the model."""

OTHER_EPSILON = ("mobilenet_v3_large", "mobilenet_v3_small", *(f"efficientnet_b{number}" for number in (5, 6, 7)))
OTHER_EPSILON += tuple(f"efficientnet_v2_{size}" for size in "sml")
"""Models whose batch normalization has the epsilon 1e-5 in timm, and 1e-3 in torchvision and jaxcnn."""

ADDED_TO_VARIANCE = dict.fromkeys(OTHER_EPSILON, 1e-5 - 1e-3)
"""Number to add to a running variance from timm, so that jaxcnn normalizes in evaluation as timm does."""

# Name in jaxcnn of architectures that have a different name in timm, and the same array shapes.
TIMM_MODELS = {
    "regnetx_004_tv": "regnet_x_400mf",
    "regnetx_008": "regnet_x_800mf",
    "regnetx_016": "regnet_x_1_6gf",
    "regnetx_032": "regnet_x_3_2gf",
    "regnetx_080": "regnet_x_8gf",
    "regnetx_160": "regnet_x_16gf",
    "regnetx_320": "regnet_x_32gf",
    "regnety_004": "regnet_y_400mf",
    "regnety_008_tv": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080_tv": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
    "regnety_320": "regnet_y_32gf",
    "regnety_1280": "regnet_y_128gf",
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "mnasnet_050": "mnasnet0_5",
    "mnasnet_075": "mnasnet0_75",
    "mnasnet_100": "mnasnet1_0",
    "efficientnetv2_s": "efficientnet_v2_s",
    "efficientnetv2_m": "efficientnet_v2_m",
    "efficientnetv2_l": "efficientnet_v2_l",
}
