"""Read the stream format of `torch.save`, the default before PyTorch 1.6."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights.torch_files import machine
from jaxcnn.weights.torch_files.machine import Storage
from jaxcnn.weights.torch_files.storages import MAX_PICKLE_BYTES, ReadStorage, cache_last

STREAM_MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


def read(path: Path) -> tuple[Any, ReadStorage]:
    """Return the saved object in a stream, and the function that reads its storages.

    Raises:
      UsageError: if the file is damaged, or is a pickle that `torch.save` did not write.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if machine.read(head).value != STREAM_MAGIC:
        raise UsageError("the file is a pickle that PyTorch did not write. Save the weights with torch.save")
    if machine.read(head).value != VERSION:
        raise UsageError("the format version of the file is unknown. Save the weights again with torch.save")
    system = machine.read(head).value
    saved, storages = machine.read(head)
    keys = machine.read(head).value
    little_endian = isinstance(system, dict) and system.get("little_endian", True)
    offsets = {}
    with path.open("rb") as file:
        file.seek(head.tell())
        for key in keys if isinstance(keys, list) else ():
            # The dtype of a storage, and thus its size in bytes, is known only from the saved object.
            if not isinstance(key, str) or key not in storages:
                raise UsageError("the file lists a storage that no tensor has. Download the file again")
            count = int.from_bytes(file.read(8), "little" if little_endian else "big")
            offsets[key] = file.tell()
            if count != storages[key].length or offsets[key] + count * storages[key].dtype.itemsize > size:
                raise UsageError("the file is truncated, or the length of a storage is wrong. Download the file again")
            file.seek(count * storages[key].dtype.itemsize, io.SEEK_CUR)
    if missing := storages.keys() - offsets.keys():
        raise UsageError(f"the file is truncated: {len(missing)} storages are missing. Download the file again")

    def read_storage(storage: Storage) -> np.ndarray:
        values = np.fromfile(path, storage.dtype, storage.length, offset=offsets[storage.key])
        return values if little_endian else values.byteswap()

    return saved, cache_last(read_storage)
