"""`jaxcnn export`: write a trained network as StableHLO or ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from jaxcnn.cli._flags import parse
from jaxcnn.cli._network_flags import RunOptions, open_run, source_note
from jaxcnn.errors import UsageError, printable
from jaxcnn.local_path import local_path


@dataclass(frozen=True, kw_only=True)
class Flags(RunOptions):
    """Write a trained network to a StableHLO or ONNX file, as a function from uint8 images [N, H, W, C] to logits.

    The logits have the shape [N, classes]. JAX runs a StableHLO file without jaxcnn (jax.export.deserialize).
    onnxruntime and other programs run an ONNX file. The command writes class names and the image shape to OUT.json.
    """

    workdir: str = tyro.MISSING
    """Run directory."""
    out: str = tyro.MISSING
    """File to write."""
    format: Literal["stablehlo", "onnx"] = "stablehlo"
    """Format of the file."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn export`."""
    flags = parse(Flags, "export", args)
    from jaxcnn.export import export

    trained = open_run(flags.workdir, flags)
    try:
        description = export(trained, flags.format, local_path("--out", flags.out))
    except OSError as error:  # for example, the name is too long
        raise UsageError(f"{flags.out} cannot be written: {error.strerror}. Give another file.") from error
    print(printable(f"wrote {flags.out}, and class names to {description}"))
    print(source_note(trained, flags))
