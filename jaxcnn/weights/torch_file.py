"""PyTorch's files (`torch.save`), read without PyTorch: the zip archive it writes now, and the stream of before 1.6.

An archive has a folder with `data.pkl` (what was saved; where a tensor stands, the key of its storage), `data/KEY`
(the bytes of a storage) and `byteorder`. A stream is five pickles one after another (magic number, version, system,
what was saved, keys of the storages), and then each storage's length and bytes. Nothing is unpacked to disk.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights import _pickled
from jaxcnn.weights._pickled import Storage, Tensor
from jaxcnn.weights._stored import Stored

LARGEST_PICKLE = 64 * 2**20  # bytes; a network of a thousand layers needs one of half a megabyte
STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

# Where a training script's checkpoint keeps the parameters.
STATE_DICTS = ("state_dict", "model", "model_state_dict")


def read(path: Path) -> dict[str, Stored]:
    """The tensors of the `state_dict` in a file that `torch.save` wrote, by name.

    Raises:
      UsageError: a file that is something else, damaged, or that asks for more than tensors.
    """
    with path.open("rb") as file:
        start = file.read(len(STREAM_START))
    try:
        if start == STREAM_START:
            saved, row = _stream(path)
        elif start.startswith(b"PK"):
            saved, row = _archive(path)
        else:
            raise UsageError("it starts neither as a zip archive nor as PyTorch's older format")
        return {name: _stored(tensor, row) for name, tensor in _state_dict(saved).items()}
    except UsageError as error:
        raise UsageError(f"{path} is no PyTorch file that can be read: {error}") from None


def _state_dict(saved: Any) -> dict[str, Tensor]:
    """Names and tensors, from what was saved: a state dict, or a checkpoint with one inside."""
    if isinstance(saved, dict) and not any(isinstance(value, Tensor) for value in saved.values()):
        saved = next((saved[name] for name in STATE_DICTS if isinstance(saved.get(name), dict)), saved)
    tensors = (
        {name: value for name, value in saved.items() if isinstance(value, Tensor)} if isinstance(saved, dict) else {}
    )
    if not tensors:
        raise UsageError("it holds no state dict; save model.state_dict()")
    return {str(name): tensor for name, tensor in tensors.items()}


def _stored(tensor: Tensor, row: Callable[[Storage], np.ndarray]) -> Stored:
    def read() -> np.ndarray:
        size = tensor.storage.dtype.itemsize
        strides = tuple(size * step for step in tensor.stride)
        # `pickled` has made sure that all of it lies within the storage.
        view = np.lib.stride_tricks.as_strided(
            row(tensor.storage)[tensor.offset :], tensor.shape, strides, writeable=False
        )
        return np.array(view)

    return Stored(tensor.shape, tensor.storage.dtype, read)


def _archive(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # for damaged archives zipfile raises a zoo of types
        raise UsageError(f"it is cut off or damaged ({error})") from None
    entries = {entry.filename: entry for entry in archive.infolist()}
    for name, entry in entries.items():
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise UsageError(f"it has an entry that leads out of the archive ({name[:80]!r})")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UsageError(f"its entry {name[:80]!r} is compressed, which PyTorch's never are")
        if entry.file_size > path.stat().st_size:
            raise UsageError(f"its entry {name[:80]!r} is longer than the file")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UsageError("it holds no data.pkl; a state dict is saved by torch.save(model.state_dict(), ...)")
    if entries[pickles[0]].file_size > LARGEST_PICKLE:
        raise UsageError("its data.pkl is larger than any network's")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        try:
            return archive.read(entries[folder + name])
        except KeyError:
            raise UsageError(f"it lacks the entry {name[:80]!r}") from None
        except Exception as error:
            raise UsageError(f"its entry {name[:80]!r} is damaged ({error})") from None

    swapped = folder + "byteorder" in entries and content("byteorder") == b"big"

    def row(storage: Storage) -> np.ndarray:
        data = content(f"data/{storage.key}")
        if len(data) != storage.length * storage.dtype.itemsize:
            raise UsageError(
                f"{path}: storage {storage.key[:80]!r} has {len(data):,} bytes, not those of {storage.length:,} numbers"
            )
        values = np.frombuffer(data, storage.dtype)
        return values.byteswap() if swapped else values

    return _pickled.read(content("data.pkl")), _keep_last(row)


def _stream(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = io.BytesIO(file.read(LARGEST_PICKLE))
    magic, version = _pickled.read(head), _pickled.read(head)
    system, saved, keys = _pickled.read(head), _pickled.read(head), _pickled.read(head)
    if magic != STREAM_MAGIC or version != 1001:
        raise UsageError(f"it is of an unknown version ({str(version)[:20]})")
    little = isinstance(system, dict) and system.get("little_endian", True)
    storages = {tensor.storage.key: tensor.storage for tensor in _state_dict(saved).values()}
    places = {}
    with path.open("rb") as file:
        file.seek(head.tell())
        for key in keys if isinstance(keys, list) else ():
            # A storage that belongs to none of the state dict's tensors says nothing of its type, hence its length.
            if not isinstance(key, str) or key not in storages:
                raise UsageError("it holds storages besides those of a state dict; save model.state_dict() alone")
            count = _int64(file, "little" if little else "big")
            places[key] = file.tell()
            if count != storages[key].length or places[key] + count * storages[key].dtype.itemsize > size:
                raise UsageError("it is cut off, or its storages are not as long as it says")
            file.seek(count * storages[key].dtype.itemsize, io.SEEK_CUR)
    if missing := storages.keys() - places.keys():
        raise UsageError(f"it is cut off: {len(missing)} storages are missing")

    def row(storage: Storage) -> np.ndarray:
        values = np.fromfile(path, storage.dtype, storage.length, offset=places[storage.key])
        return values if little else values.byteswap()

    return saved, _keep_last(row)


def _int64(file: BinaryIO, order: Any) -> int:
    return int.from_bytes(file.read(8), order)


def _keep_last(row: Callable[[Storage], np.ndarray]) -> Callable[[Storage], np.ndarray]:
    """`row`, which need not read again what it read last: many tensors may lie in one storage."""
    last: list[tuple[Storage, np.ndarray]] = []

    def kept(storage: Storage) -> np.ndarray:
        if not last or last[0][0] != storage:
            last[:] = [(storage, row(storage))]
        return last[0][1]

    return kept
