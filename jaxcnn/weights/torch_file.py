"""Read files of `torch.save` without PyTorch: zip archives, and the older stream format (before PyTorch 1.6).

An archive contains a folder with these entries:

- `data.pkl`: the saved object, in which tensors refer to storages by key
- `data/KEY`: the bytes of a storage
- `byteorder`: "little" or "big"

A stream contains five pickles in sequence (magic number, version, system, saved object, keys of the storages), and
then the length and the bytes of each storage.

Nothing is unpacked to disk.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights import _pickled
from jaxcnn.weights._pickled import Storage, Tensor
from jaxcnn.weights._stored import Stored

MAX_PICKLE_BYTES = 64 * 2**20  # a network of a thousand layers needs about 0.5 MB
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

ReadStorage = Callable[[Storage], np.ndarray]
"""Function that returns the values of a storage as a one-dimensional array."""

# Keys under which training scripts store the state dict in a checkpoint.
STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict")


def read(path: Path) -> dict[str, Stored]:
    """Return the tensors of the `state_dict` in a file of `torch.save`, by name.

    Raises:
      UsageError: the file is damaged, has another format, or contains anything other than tensors.
    """
    with path.open("rb") as file:
        start = file.read(len(STREAM_START))
    try:
        if start == STREAM_START:
            saved, read_storage = _read_stream(path)
        elif start.startswith(b"PK"):
            saved, read_storage = _read_archive(path)
        else:
            raise UsageError("it is neither a zip archive nor an old PyTorch stream. Save it with torch.save")
        return {name: _stored(tensor, read_storage) for name, tensor in _state_dict(saved).items()}
    except UsageError as error:
        raise UsageError(f"cannot read the PyTorch file {path}: {error}.") from None


def _state_dict(saved: Any) -> dict[str, Tensor]:
    """Return the tensors of a saved object, by name: of a state dict, or of a checkpoint that contains one."""
    table = saved if isinstance(saved, dict) else {}
    if not any(isinstance(value, Tensor) for value in table.values()):
        table = next((table[key] for key in STATE_DICT_KEYS if isinstance(table.get(key), dict)), table)
    tensors = {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError("it contains no state dict. Save `model.state_dict()`")
    return tensors


def _stored(tensor: Tensor, read_storage: ReadStorage) -> Stored:
    def read() -> np.ndarray:
        size = tensor.storage.dtype.itemsize
        strides = tuple(size * step for step in tensor.stride)
        values = read_storage(tensor.storage)[tensor.offset :]
        # Safe, because `_pickled` has checked that the view lies within the storage.
        return np.array(np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False))

    return Stored(tensor.shape, tensor.storage.dtype, read)


def _read_archive(path: Path) -> tuple[Any, ReadStorage]:
    """Return the saved object in a zip archive, and the function that reads its storages."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises exceptions of many unrelated types
        raise UsageError(f"it is truncated or damaged ({error}). Download it again") from None
    entries = {entry.filename: entry for entry in archive.infolist()}
    for name, entry in entries.items():
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise UsageError(f"its entry {name[:80]!r} points outside the archive. Save it with torch.save")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UsageError(f"its entry {name[:80]!r} is compressed. Save it with torch.save")
        if entry.file_size > path.stat().st_size:
            raise UsageError(f"its entry {name[:80]!r} is longer than the file. Download it again")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UsageError("it does not contain one data.pkl. Save it with torch.save(model.state_dict(), ...)")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        size = entries[pickles[0]].file_size
        raise UsageError(f"its data.pkl is too large: {size:,} bytes. Save `model.state_dict()` alone")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        try:
            return archive.read(entries[folder + name])
        except KeyError:
            raise UsageError(f"it has no entry {name[:80]!r}. Download it again") from None
        except Exception as error:
            raise UsageError(f"its entry {name[:80]!r} is damaged ({error}). Download it again") from None

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

    return _pickled.read(content("data.pkl")), _cache_last(read_storage)


def _read_stream(path: Path) -> tuple[Any, ReadStorage]:
    """Return the saved object in a stream, and the function that reads its storages."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    magic, version = _pickled.read(head), _pickled.read(head)
    system, saved, keys = _pickled.read(head), _pickled.read(head), _pickled.read(head)
    if magic != STREAM_MAGIC or version != 1001:
        raise UsageError(f"its format version is unknown: {str(version)[:20]}. Save it with torch.save")
    little_endian = isinstance(system, dict) and system.get("little_endian", True)
    storages = {tensor.storage.key: tensor.storage for tensor in _state_dict(saved).values()}
    offsets = {}
    with path.open("rb") as file:
        file.seek(head.tell())
        for key in keys if isinstance(keys, list) else ():
            # The dtype of a storage, hence its size in bytes, is known only from a tensor of the state dict.
            if not isinstance(key, str) or key not in storages:
                raise UsageError("it contains more than a state dict. Save `model.state_dict()` alone")
            count = int.from_bytes(file.read(8), "little" if little_endian else "big")
            offsets[key] = file.tell()
            if count != storages[key].length or offsets[key] + count * storages[key].dtype.itemsize > size:
                raise UsageError("it is truncated, or the length of a storage is wrong. Download it again")
            file.seek(count * storages[key].dtype.itemsize, io.SEEK_CUR)
    if missing := storages.keys() - offsets.keys():
        raise UsageError(f"it is truncated: {len(missing)} storages are missing. Download it again")

    def read_storage(storage: Storage) -> np.ndarray:
        values = np.fromfile(path, storage.dtype, storage.length, offset=offsets[storage.key])
        return values if little_endian else values.byteswap()

    return saved, _cache_last(read_storage)


def _cache_last(read_storage: ReadStorage) -> ReadStorage:
    """Return `read_storage` with a cache of the last storage, since many tensors may share one."""
    last: list[tuple[Storage, np.ndarray]] = []

    def read_cached(storage: Storage) -> np.ndarray:
        if not last or last[0][0] != storage:
            last[:] = [(storage, read_storage(storage))]
        return last[0][1]

    return read_cached
