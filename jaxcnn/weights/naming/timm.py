"""Names in timm, where they differ from torchvision's. timm 1.0.31."""

from collections.abc import Callable
from typing import Any

from jaxcnn.weights.naming import Names


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


TIMM: dict[str, Callable[[Any], Names]] = {
    **{f"convnext_{size}": convnext for size in ("tiny", "small", "base", "large")},
    **{
        f"regnet_{kind}_{size}": regnet
        for kind in "xy"
        for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    },
    "regnet_y_128gf": regnet,
}
"""Function that returns timm's names, by the name of the model in jaxcnn."""

# Names of architectures in timm, where they differ from ours and all arrays have the same shapes.
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
}
