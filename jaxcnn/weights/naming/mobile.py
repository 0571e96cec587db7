"""Names in torchvision of the modules of inverted residual networks, in the form of `jaxcnn.weights.names`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxcnn.weights.naming import Names

EXCITATION = "excitation"


def mobilenet_v2(model: Any) -> Names:
    names = {**_unit("stem", "features.0"), "head": "classifier.1"}
    index = 0
    for index, (ours, row) in enumerate(_blocks(model), start=1):
        theirs = f"features.{index}.conv"
        parts = ("depthwise",) if row.expansion == 1 else ("expand", "depthwise")
        for number, part in enumerate(parts):
            names |= _unit(f"{ours}/{part}", f"{theirs}.{number}")
        # The last convolution has no activation, so that torchvision does not wrap it in a module.
        number = len(parts)
        names |= {f"{ours}/project/conv": f"{theirs}.{number}", f"{ours}/project/norm": f"{theirs}.{number + 1}"}
    return {**names, **_unit("last", f"features.{index + 1}")}


def mnasnet(model: Any) -> Names:
    names = {"stem/conv": "layers.0", "stem/norm": "layers.1", "head": "classifier.1"}
    for ours, _ in _blocks(model):
        stage, block = (int(number) for number in ours.removeprefix("stage").split("_block"))
        # In torchvision, layers 3 to 7 are the first block, which has no expansion.
        theirs, first = ("layers", 3) if stage == 1 else (f"layers.{stage + 6}.{block - 1}.layers", 0)
        parts = ("depthwise", "project") if stage == 1 else ("expand", "depthwise", "project")
        for number, part in enumerate(parts):
            index = first + 3 * number
            names |= {f"{ours}/{part}/conv": f"{theirs}.{index}", f"{ours}/{part}/norm": f"{theirs}.{index + 1}"}
    last = len(model.table) + 7
    return {**names, "last/conv": f"layers.{last}", "last/norm": f"layers.{last + 1}"}


def efficientnet(model: Any) -> Names:
    names = {**_unit("stem", "features.0"), **_unit("last", f"features.{len(model.table) + 1}"), "head": "classifier.1"}
    for ours, row in _blocks(model):
        stage, block = ours.removeprefix("stage").split("_block")
        names |= _sequence(ours, f"features.{stage}.{int(block) - 1}.block", parts_of_row(row))
    return names


def mobilenet_v3(model: Any) -> Names:
    names = {**_unit("stem", "features.0"), "fc": "classifier.0", "head": "classifier.3"}
    blocks = [(f"stage{n}_block{m}", row) for n, rows in enumerate(model.table, 1) for m, row in enumerate(rows, 1)]
    index, inputs = 0, model.stem_features
    for index, (ours, row) in enumerate(blocks, start=1):
        block = model.bneck(row).keywords
        names |= _sequence(ours, f"features.{index}.block", parts_of_bneck(block, inputs))
        inputs = block["features"]
    return {**names, **_unit("last", f"features.{index + 1}")}


def parts_of_row(row: Any) -> tuple[str, ...]:
    """Return the parts of a block of EfficientNet, given the block's row in the model's table.

    The blocks of MobileNetV2 and MnasNet have these parts, but no squeeze-and-excitation.
    """
    widens = row.expansion != 1
    if row.fused:
        return ("fused",) + ("project",) * widens
    return ("expand",) * widens + ("depthwise", EXCITATION, "project")


def parts_of_bneck(block: Any, inputs: int) -> tuple[str, ...]:
    """Return the parts of a MobileNetV3 block with the fields `block` and `inputs` input channels."""
    parts = ("expand",) * (block["expanded"] != inputs) + ("depthwise",)
    return parts + (EXCITATION,) * (block["squeeze"] > 0) + ("project",)


def _blocks(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name of each block, and the block's row in the table `model.rows`."""
    for stage, row in enumerate(model.rows, start=1):
        for block in range(1, row.blocks + 1):
            yield f"stage{stage}_block{block}", row


def _unit(ours: str, theirs: str) -> Names:
    return {f"{ours}/conv": f"{theirs}.0", f"{ours}/norm": f"{theirs}.1"}


def _sequence(ours: str, theirs: str, parts: Iterable[str]) -> Names:
    """Return the names of the parts of a block. In torchvision, the name of a part is its number in the block."""
    names: Names = {}
    for number, part in enumerate(parts):
        if part == EXCITATION:
            fields = {"reduce": "fc1", "expand": "fc2"}
            names |= {f"{ours}/{part}/{field}": f"{theirs}.{number}.{name}" for field, name in fields.items()}
        else:
            names |= _unit(f"{ours}/{part}", f"{theirs}.{number}")
    return names


# Function that returns the names in torchvision, by the name of the model in jaxcnn.
MOBILE: dict[str, Callable[[Any], Names]] = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3,
    "mobilenet_v3_small": mobilenet_v3,
    **{f"mnasnet{width}": mnasnet for width in ("0_5", "0_75", "1_0", "1_3")},
    **{f"efficientnet_b{number}": efficientnet for number in range(8)},
    **{f"efficientnet_v2_{size}": efficientnet for size in "sml"},
}
