"""Read files of `torch.save` without PyTorch: zip archives, and the older stream format (before PyTorch 1.6).

An archive contains a folder with these entries:

- `data.pkl`: the saved object, in which tensors refer to storages by key
- `data/KEY`: the bytes of the storage that has the key KEY
- `byteorder`: the byte order of all storages, "little" or "big"

A stream contains five pickles in sequence: magic number, version, system, saved object, and keys of the storages. After
the pickles, the stream contains the length and the bytes of each storage.

Reading executes no code from the file, and unpacks nothing to disk.
"""

from pathlib import Path

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.torch_files import archive, stream
from jaxcnn.weights.torch_files.contents import tensors
from jaxcnn.weights.torch_files.machine import Tensor, Unusable
from jaxcnn.weights.torch_files.storages import ReadStorage

ARCHIVE_START, PICKLE_START = b"PK", b"\x80"


def read(path: Path) -> dict[str, Stored]:
    """Return the tensors in a file of `torch.save`, by their paths in the saved object.

    Raises:
      UsageError: if the file is damaged, has another format, or contains no tensors.
    """
    with path.open("rb") as file:
        start = file.read(2)
    try:
        if start.startswith(ARCHIVE_START):
            saved, read_storage = archive.read(path)
        elif start.startswith(PICKLE_START):
            saved, read_storage = stream.read(path)
        else:
            raise UsageError("the file is neither a zip archive nor an old PyTorch stream. Use torch.save")
        found = tensors(saved)
        if not found:
            raise UsageError("the file contains no state dict. Save `model.state_dict()`")
        return {name: _stored(tensor, read_storage) for name, tensor in found.items()}
    except UsageError as error:
        raise UsageError(f"cannot read the PyTorch file {path}: {error}.") from None


def _stored(tensor: Tensor | Unusable, read_storage: ReadStorage) -> Stored:
    if isinstance(tensor, Unusable):
        return Stored((), np.dtype("V1"), lambda: np.zeros((), "V1"), tensor.kind)

    def read() -> np.ndarray:
        size = tensor.dtype.itemsize
        strides = tuple(size * step for step in tensor.stride)
        # The size of an untyped storage in bytes may not be a multiple of the size of a value.
        data = read_storage(tensor.storage).view(np.uint8)
        values = data[: len(data) // size * size].view(tensor.dtype)[tensor.offset :]
        # Safe, because `machine` has checked that the view lies within the storage.
        return np.array(np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False))

    return Stored(tensor.shape, tensor.dtype, read)
