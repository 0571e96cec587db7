"""Read the zip archives of `torch.save`. Entries that are compressed, or whose path leads outside, are refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights.torch_files import machine
from jaxcnn.weights.torch_files.machine import Storage
from jaxcnn.weights.torch_files.storages import MAX_PICKLE_BYTES, ReadStorage, cache_last


def read(path: Path) -> tuple[Any, ReadStorage]:
    """Return the saved object in a zip archive, and the function that reads its storages.

    Raises:
      UsageError: if the archive is damaged, is compressed, or was not written by `torch.save`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises exceptions of many unrelated types
        raise UsageError(f"the file is truncated or damaged ({error}). Download the file again") from None
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in entries):
        raise UsageError("the file is a TorchScript program. Save `model.state_dict()` of the original module")
    if any(name.endswith(".npy") for name in entries):
        raise UsageError("the file is an archive of NumPy (.npz). Save the arrays as .safetensors")
    for name, entry in entries.items():
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise UsageError(f"the entry {name[:80]!r} points outside the archive. Save the weights with torch.save")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UsageError(f"the entry {name[:80]!r} is compressed. Save the weights with torch.save")
        if entry.file_size > path.stat().st_size:
            raise UsageError(f"the entry {name[:80]!r} is longer than the file. Download the file again")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        found = f"{len(pickles)} files named data.pkl instead of one"
        raise UsageError(f"the file contains {found}. Save the weights with torch.save(model.state_dict(), ...)")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        size = entries[pickles[0]].file_size
        raise UsageError(f"the entry data.pkl is too large: {size:,} bytes. Save `model.state_dict()` alone")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        try:
            return archive.read(entries[folder + name])
        except KeyError:
            raise UsageError(f"the file has no entry {name[:80]!r}. Download the file again") from None
        except Exception as error:
            raise UsageError(f"the entry {name[:80]!r} is damaged ({error}). Download the file again") from None

    big_endian = folder + "byteorder" in entries and content("byteorder") == b"big"

    def read_storage(storage: Storage) -> np.ndarray:
        data = content(f"data/{storage.key}")
        if len(data) != storage.length * storage.dtype.itemsize:
            raise UsageError(
                f"storage {storage.key[:80]!r} in {path} has the wrong size: {len(data):,} bytes for "
                f"{storage.length:,} values. Download the file again."
            )
        values = np.frombuffer(data, storage.dtype)
        return values.byteswap() if big_endian else values

    return machine.read(content("data.pkl")).value, cache_last(read_storage)
