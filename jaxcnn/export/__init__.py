"""Trained networks for other programs: StableHLO for JAX without jaxcnn, ONNX for everything else.

Both take uint8 images `[N, H, W, C]`, for any N, and give logits `[N, classes]`: normalisation is inside.
"""

import dataclasses
from pathlib import Path

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.export import onnx, stablehlo
from jaxcnn.train import Trained
from jaxcnn.train.runtime.workdir import write_json

FORMATS = {"stablehlo": stablehlo.convert, "onnx": onnx.convert}


def export(trained: Trained, kind: str, out: str | Path) -> Path:
    """Writes a trained network to a file, and what its answers mean to a JSON file beside it.

    Args:
      trained: the network, as `jaxcnn.train.load_run` gives it.
      kind: "stablehlo" or "onnx".
      out: the file; beside it, with ".json" behind its name, are the class names and the shape of images.

    Returns:
      The path of the JSON file.

    Raises:
      UsageError: an unknown format, a package that is not installed, or a path that cannot be written.
    """
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    out = Path(out).expanduser()
    if out.is_dir():
        raise UsageError(f"{out} cannot be written: it is a folder")
    if not out.parent.is_dir():
        raise UsageError(f"{out} cannot be written: the folder {out.parent} does not exist")
    content = FORMATS[kind](trained)
    temporary, beside = out.with_name(f".{out.name}.part"), out.with_name(f"{out.name}.json")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
        write_json(
            beside, {"model": trained.config.model, "step": trained.step, **dataclasses.asdict(trained.preprocessing)}
        )
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    return beside


__all__ = ["FORMATS", "export"]
