"""Convert published weights without PyTorch: read state dicts of torchvision and timm, and write them.

>>> import tempfile, jax, jaxcnn
>>> import numpy as np
>>> images = np.zeros((1, 28, 28, 1), np.float32)
>>> shapes = jax.eval_shape(lambda: jaxcnn.create_model("lenet5").init(jax.random.key(0), images, train=False))
>>> variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
>>> with tempfile.TemporaryDirectory() as folder:
...     path = f"{folder}/lenet5.safetensors"
...     rows = save(path, "lenet5", variables, image_shape=(28, 28, 1))
...     arrays = read_arrays(local_file(path))
...     conversion = convert("lenet5", path)
...     loaded = load("lenet5", path)
>>> rows[0].target, len(arrays), conversion.num_classes
('params/C1/bias', 10, 10)
>>> jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
True
"""

from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxcnn.errors import UsageError
from jaxcnn.local_path import local_path
from jaxcnn.models import create_model
from jaxcnn.weights import _hub, formats, safetensors
from jaxcnn.weights._nested import without_prefix
from jaxcnn.weights._published import (
    PUBLISHED,
    Published,
    fetch,
    is_published,
    known_preprocessing,
    list_published,
    published,
    recorded,
)
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.conversion import (
    IMAGENET,
    Channels,
    Conversion,
    Row,
    as_stored,
    from_file,
    to_ours,
    to_timm,
    to_torchvision,
)
from jaxcnn.weights.formats import files_of, is_weight_folder
from jaxcnn.weights.names import TORCHVISION, torchvision_names
from jaxcnn.weights.preprocessing import ENTRY, Preprocessing


def read_arrays(path: str | Path) -> dict[str, Stored]:
    """Return the arrays in a weight file, by their names in the file.

    A checkpoint contains more than a state dict. Names of arrays in a checkpoint begin with the path of the array, such
    as "state_dict.conv1.weight".

    Args:
      path: a safetensors file or a file of `torch.save`, with any suffix; an index of several files (`*.index.json`);
        or a Hugging Face folder.

    Raises:
      UsageError: if the file is missing, damaged, of another format, or contains no arrays.
    """
    return formats.read_arrays(local_path("weight file", path))


def local_file(source: str | Path) -> Path:
    """Return the local path of a weight file, and download the file if necessary.

    A source `hf:OWNER/NAME`, or an id such as `timm:resnet50.a1_in1k`, is downloaded if this machine has no copy.

    Raises:
      UsageError: if the id is unknown, the download fails, or a folder has no weight file.
    """
    if is_published(str(source)):
        return fetch(str(source))
    if str(source).startswith(_hub.PREFIX):
        return _hub.fetch(str(source))
    return formats.file_in(local_path("weight file", source))


def convert(
    model_name: str,
    path: str | Path,
    *,
    num_classes: int | None = None,
    drop_head: bool = False,
    image_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    channels: Channels = "exact",
    part: str | None = None,
    **fields: Any,
) -> Conversion:
    """Read the variables of a model from a file, and report how each array was converted.

    See `load` for a description of the arguments.

    Raises:
      UsageError: if the model is unknown, the file cannot be read, or its arrays do not fit the model.
    """

    def build(classes: int | None) -> nn.Module:
        return create_model(model_name, classes, **fields)

    build(num_classes)  # raises the error for an unknown name before the file is opened
    source, path = str(path), local_file(path)
    stored = read_arrays(path)
    if image_shape is None:
        image_shape = _parse_shape(safetensors.recorded(path, "image_shape")) or IMAGENET
    try:
        return from_file(
            model_name,
            build,
            stored,
            image_shape=image_shape,
            num_classes=num_classes,
            drop_head=drop_head,
            seed=seed,
            channels=channels,
            preprocessing=known_preprocessing(source, path),
            part=part,
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
    channels: Channels = "exact",
    part: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Read the variables of a model from a weight file.

    `convert(...).preprocessing` has the image size, the crop and the normalization that the weights expect.

    Args:
      model_name: name of the model, one of `jaxcnn.list_models()`.
      path: a file of `torch.save` or a safetensors file, with any suffix and with the array names of torchvision, timm
        or `save`; an index of several files; a Hugging Face folder; `hf:OWNER/NAME`, to download the file from the
        Hugging Face hub; or one of `list_published()`, such as `timm:resnet50.a1_in1k`. A file may be a checkpoint
        that contains more than the state dict of the model, and names may have prefixes such as "module.".
      num_classes: number of logits. Default: the number of classes in the file.
      drop_head: whether to replace the classifiers in the file by newly initialized classifiers.
      image_shape: shape `(H, W, C)` of the images. Default: the shape recorded in the file, or (224, 224, 3).
      seed: random seed to initialize new classifiers.
      channels: whether a model for gray images accepts color weights. "exact" refuses color weights. "sum" accepts them
        and sums the first kernel over its input channels. The first feature maps are then those of a color image whose
        channels all equal the gray image.
      part: path of the part of the file to load, such as "model_ema". Default: the part that fits the model best. If
        several parts fit equally well, the network itself is preferred to its moving averages.
      **fields: fields of the model, as in `create_model`.

    Returns:
      `{"params": ..., "batch_stats": ...}` with NumPy arrays.

    Raises:
      UsageError: if the model is unknown, the file cannot be read, or its arrays do not fit the model.
    """
    return convert(
        model_name,
        path,
        num_classes=num_classes,
        drop_head=drop_head,
        image_shape=image_shape,
        seed=seed,
        channels=channels,
        part=part,
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
    preprocessing: Preprocessing | None = None,
) -> list[Row]:
    """Write the variables of a model to a `.safetensors` file.

    Args:
      path: path of the file to write. The path must end in `.safetensors`.
      model_name: name of the model, one of `jaxcnn.list_models()`.
      variables: variables of the model, `{"params": ..., "batch_stats": ...}`.
      to: naming of the arrays in the file: "ours" (jaxcnn), "torchvision" or "timm".
      image_shape: shape `(H, W, C)` of the input images, to record in the file.
      model: the model itself; required only if its fields differ from those of `create_model(model_name)`.
      preprocessing: preprocessing of the images with which the weights were trained, to record in the file.

    Returns:
      A `Row` for each array: its name and shape in jaxcnn and in the file, and how the array was changed.

    Raises:
      UsageError: if the model has no counterpart in the library `to`, or the path cannot be written.
    """
    path = local_path("output file", path)
    if path.is_dir():
        raise UsageError(f"cannot write {path}: this path is a directory. Give the path of a .safetensors file.")
    if path.suffix != ".safetensors":
        raise UsageError(f"unsupported suffix of the output file: {path}. The name must end in .safetensors.")
    if to in ("torchvision", "timm"):
        convert_to = to_torchvision if to == "torchvision" else to_timm
        arrays, rows = convert_to(model_name, variables, model)
    elif to == "ours":
        arrays = to_ours(variables)
        rows = [Row(name, name, array.shape, array.shape, "unchanged") for name, array in arrays.items()]
    else:
        raise UsageError(f"unknown kind of array names: {to!r}. Use 'ours', 'torchvision' or 'timm'.")
    metadata = {"format": "jaxcnn" if to == "ours" else "pt", "model": model_name}
    if image_shape is not None:
        metadata["image_shape"] = "x".join(map(str, image_shape))
    if preprocessing is not None:
        metadata[ENTRY] = preprocessing.to_text()
    safetensors.write(path, arrays, metadata)
    return rows


def _parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Return (H, W, C) from text "HxWxC", or None if the text is not three integers from 1 to 65536."""
    parts = (text or "").split("x")
    if len(parts) != 3:
        return None
    # Check the length first, because converting a very long string to an integer raises an error.
    if not all(part.isdecimal() and len(part) <= 5 and 0 < int(part) <= 65536 for part in parts):
        return None
    return tuple(map(int, parts))


__all__ = [
    "PUBLISHED",
    "TORCHVISION",
    "Channels",
    "Conversion",
    "Preprocessing",
    "Published",
    "Row",
    "as_stored",
    "convert",
    "files_of",
    "from_file",
    "is_published",
    "is_weight_folder",
    "known_preprocessing",
    "list_published",
    "load",
    "local_file",
    "published",
    "read_arrays",
    "recorded",
    "save",
    "to_ours",
    "to_timm",
    "to_torchvision",
    "torchvision_names",
    "without_prefix",
]
