"""`jaxcnn export`: write a trained network as StableHLO or ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxcnn import train
from jaxcnn.cli._flags import parse


@dataclass(frozen=True)
class Flags:
    """Write a trained network as StableHLO or ONNX. It maps uint8 images [N, H, W, C] to logits [N, classes].

    JAX runs a StableHLO file without jaxcnn (jax.export.deserialize); onnxruntime and others run an ONNX file. Class
    names and the image shape are written to OUT.json.
    """

    workdir: str
    """Run directory."""
    out: str
    """File to write."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """Format of the file."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "export", args)
    from jaxcnn.export import export

    description = export(train.load_run(flags.workdir), flags.format, flags.out)
    print(f"wrote {flags.out}, and class names to {description}")
