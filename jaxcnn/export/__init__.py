"""Export trained networks: as StableHLO for JAX without jaxcnn, as ONNX for other runtimes, or frozen for this process.

`freeze` returns a model with its variables as one fast function of images. StableHLO and ONNX files contain the program
of this function, in which batch normalization is folded into the convolutions. The program maps images `[N, H, W, C]`
to logits `[N, classes]`, for any batch size N. The program also normalizes the images. Images are uint8, or float32 if
the network was trained on floats.
"""

import contextlib
import dataclasses
from pathlib import Path

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.export import onnx, stablehlo
from jaxcnn.freezing import Frozen, freeze
from jaxcnn.local_path import local_path
from jaxcnn.train import Trained
from jaxcnn.train.runtime.workdir import write_json

FORMATS = {"stablehlo": stablehlo.convert, "onnx": onnx.convert}
"""For each format of `export`: the function that converts a `Trained` to the content of the file."""


def export(trained: Trained, kind: str, out: str | Path) -> Path:
    """Write a trained network to a file, and its class names and image shape to a JSON file next to it.

    Args:
      trained: a trained network, from `jaxcnn.train.load_run`.
      kind: format of the file, "stablehlo" or "onnx".
      out: path of the file. The JSON file has the same name with ".json" appended.

    Returns:
      The path of the JSON file.

    Raises:
      UsageError: the format is unknown, a required package is not installed, or the path cannot be written.
      RunError: the network cannot be converted, or the converted network gives different logits.
    """
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    out = local_path("out", out)
    if out.is_dir():
        raise UsageError(f"cannot write {out}: this path is a folder. Give the path of a file.")
    if not out.parent.is_dir():
        raise UsageError(
            f"cannot write {out}: the folder {out.parent} does not exist. Create this folder, or choose another path."
        )
    content = FORMATS[kind](trained)
    temporary, description = out.with_name(f".{out.name}.part"), out.with_name(f"{out.name}.json")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
        about = {"model": trained.name, "step": trained.step, **dataclasses.asdict(trained.preprocessing)}
        write_json(description, about)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {out}: {error.strerror}. Choose another path.") from error
    return description


__all__ = ["FORMATS", "Frozen", "export", "freeze"]
