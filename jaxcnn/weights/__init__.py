"""Published weights in and out: torchvision's and timm's state dicts, without PyTorch."""

from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.weights import _hub, safetensors, torch_file
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.conversion import IMAGENET, Conversion, Row, as_stored, from_file, to_ours, to_torchvision
from jaxcnn.weights.names import TORCHVISION, torchvision_names


def read_arrays(path: str | Path) -> dict[str, Stored]:
    """The arrays in a `.safetensors` file, or in a `.pth` or `.pt` file that PyTorch wrote, by their names there.

    Raises:
      UsageError: a file that is missing, damaged, of another kind, or that asks for more than arrays.
    """
    path = Path(path).expanduser()
    readers = {
        ".safetensors": safetensors.read,
        ".pth": torch_file.read,
        ".pt": torch_file.read,
        ".bin": torch_file.read,
    }
    if path.suffix not in readers:
        raise UsageError(f"{path} is neither .safetensors nor .pth (or .pt, .bin), the kinds of files that can be read")
    if not path.is_file():
        raise UsageError(f"{path} does not exist, or is no file")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def local_file(source: str | Path) -> Path:
    """The file itself; `hf:OWNER/NAME` is downloaded from the Hugging Face hub unless it is there already.

    Raises:
      UsageError: it cannot be downloaded.
    """
    return _hub.fetch(str(source)) if str(source).startswith(_hub.PREFIX) else Path(source).expanduser()


def convert(
    model_name: str,
    path: str | Path,
    *,
    num_classes: int | None = None,
    drop_head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    **fields: Any,
) -> Conversion:
    """The variables of a model from a file, with a report of each array; arguments as of `load`."""

    def build(classes: int | None) -> nn.Module:
        return create_model(model_name, classes, **fields)

    build(num_classes)  # refuses unknown names before a file is opened
    path = local_file(path)
    stored = read_arrays(path)
    if image_shape is None:
        said = safetensors.metadata(path).get("image_shape") if path.suffix == ".safetensors" else None
        image_shape = _parse_shape(said) or IMAGENET
    try:
        return from_file(
            model_name,
            build,
            stored,
            image_shape=image_shape,
            num_classes=num_classes,
            drop_head=drop_head,
            seed=seed,
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def load(
    model_name: str,
    path: str | Path,
    *,
    num_classes: int | None = None,
    drop_head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    **fields: Any,
) -> dict[str, Any]:
    """The variables of a model from a file: `{"params": ..., "batch_stats": ...}`, of NumPy arrays.

    Args:
      model_name: one of `jaxcnn.list_models()`.
      path: a `.safetensors` or `.pth` file with the names of torchvision, of timm or of `save`; or `hf:OWNER/NAME`,
        which is downloaded from the Hugging Face hub.
      num_classes: number of logits; as many as in the file, if not given.
      drop_head: leaves the classifiers in the file out and puts fresh ones in their place.
      image_shape: `(H, W, C)` of the images; by default what the file says, or ImageNet's 224x224x3.
      seed: of the fresh classifiers.
      **fields: fields of the model, as for `create_model`.

    Raises:
      UsageError: an unknown model, a file that cannot be read, or arrays that do not fit, all of them listed.
    """
    return convert(
        model_name,
        path,
        num_classes=num_classes,
        drop_head=drop_head,
        image_shape=image_shape,
        seed=seed,
        **fields,
    ).variables


def save(
    path: str | Path,
    model_name: str,
    variables: Any,
    *,
    to: str = "ours",
    image_shape: tuple[int, ...] | None = None,
    model: nn.Module | None = None,
) -> list[Row]:
    """Writes a model's variables to a `.safetensors` file, under our names or torchvision's.

    Args:
      path: the file.
      model_name: one of `jaxcnn.list_models()`.
      variables: `{"params": ..., "batch_stats": ...}`.
      to: "ours" or "torchvision".
      image_shape: `(H, W, C)` of the images that the model takes, to be noted in the file.
      model: the model itself, if its fields are not the name's own.

    Returns:
      A row for each array.

    Raises:
      UsageError: a model without a counterpart in torchvision, or a path that cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} must end in .safetensors, the kind of file that is written")
    if to == "torchvision":
        arrays, rows = to_torchvision(model_name, variables, model)
    elif to == "ours":
        arrays = to_ours(variables)
        rows = [Row(name, name, array.shape, array.shape, "as it is") for name, array in arrays.items()]
    else:
        raise UsageError(f"names are 'ours' or 'torchvision', got {to!r}")
    metadata = {"format": "pt" if to == "torchvision" else "jaxcnn", "model": model_name}
    if image_shape is not None:
        metadata["image_shape"] = "x".join(map(str, image_shape))
    safetensors.write(path, arrays, metadata)
    return rows


def _parse_shape(text: str | None) -> tuple[int, ...] | None:
    parts = (text or "").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part[:6]) <= 65536 and len(part) < 6 for part in parts):
        return None
    return tuple(map(int, parts))


__all__ = [
    "TORCHVISION",
    "Conversion",
    "Row",
    "as_stored",
    "convert",
    "from_file",
    "load",
    "local_file",
    "read_arrays",
    "save",
    "to_ours",
    "to_torchvision",
    "torchvision_names",
]
