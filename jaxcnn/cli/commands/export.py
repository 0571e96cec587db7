"""`jaxcnn export`: write a trained network for other programs to run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxcnn import train
from jaxcnn.cli._flags import parse


@dataclass(frozen=True)
class Flags:
    """Write a trained network for other programs to run: uint8 images [N, H, W, C] in, logits [N, classes] out.

    A StableHLO file is run by JAX alone (jax.export.deserialize), an ONNX file by onnxruntime and others. Class names
    and the shape of images are written beside it, to OUT.json.
    """

    workdir: str
    """Folder of the run."""
    out: str
    """The file to write."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """The file's format."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "export", args)
    from jaxcnn.export import export

    beside = export(train.load_run(flags.workdir), flags.format, flags.out)
    print(f"{flags.out} written, and {beside} with the names of its classes")
