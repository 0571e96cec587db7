"""Read and write the safetensors format: the length of the header in eight bytes, a JSON header, and the arrays.

The header of a file is not trusted. Every array must lie inside the file and have the size of its shape, and no two
arrays may overlap.

References:
  The description of the format in the repository huggingface/safetensors (version 0.4 and later).
"""

import contextlib
import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import BFLOAT16, Stored, count

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER_BYTES = 100_000_000  # the limit in the description of the format


def read(path: Path) -> dict[str, Stored]:
    """Return the arrays in a safetensors file by name. The file is memory-mapped, so values are read on demand.

    Raises:
      UsageError: if the file is truncated, or its header is invalid.
    """
    header, start, size = _header(path)
    header.pop("__metadata__", None)
    arrays = {}
    intervals = []
    for name, entry in header.items():
        dtype, shape, first, last = _entry(path, name, entry)
        if not first <= last <= size or last - first != count(shape) * dtype.itemsize:
            raise _damaged(path, f"{name!r} of shape {list(shape)} does not fit bytes {first} to {last} of {size}")
        intervals.append((first, last, name))
        arrays[name] = Stored(shape, dtype, lambda d=dtype, s=shape, o=start + first: _map(path, d, s, o))
    intervals.sort()
    for (_, last, name), (first, _, other) in pairwise(intervals):
        if first < last:
            raise _damaged(path, f"{name!r} and {other!r} overlap")
    return arrays


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, the `__metadata__` entry of its header.

    Raises:
      UsageError: if the file is truncated, or its header is invalid.
    """
    table = _header(path)[0].get("__metadata__", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise _damaged(path, "its __metadata__ is not an object of strings")
    return table


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins like a safetensors file: a length in eight bytes, then the brace of a header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def recorded(path: Path, entry: str) -> str | None:
    """Return an entry of the metadata of a file, or None if the file is not a safetensors file or lacks the entry.

    Raises:
      UsageError: if the file is truncated, or its header is invalid.
    """
    return metadata(path).get(entry) if path.suffix == ".safetensors" or is_safetensors(path) else None


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays to a safetensors file.

    The file is replaced atomically: a concurrent reader sees the old or the new file, never a part.

    Args:
      path: path of the file to write.
      arrays: arrays to write, by name.
      metadata: strings to store in the `__metadata__` entry of the header.

    Raises:
      UsageError: if the path cannot be written. After this error, no partial file is left.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # align the arrays to eight bytes
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # `unlink` itself fails if the parent of the path is not a directory
            temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}. Choose another path.") from error


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, the offset of the arrays in the file, and the number of bytes after this offset."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"a header of {length:,} bytes does not fit a file of {size:,} bytes")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_dict_of_unique_names)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return header, 8 + length, size - 8 - length


def _dict_of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("the header has the same name twice")
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Return the dtype, the shape, the first byte and the end (exclusive) of an array, from its entry in the header."""
    try:
        kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"{name!r} has no dtype, no shape or no pair of data_offsets") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise _damaged(path, f"the shape or data_offsets of {name!r} are not non-negative integers")
    if not isinstance(kind, str):
        raise _damaged(path, f"the dtype of {name!r} is not a string")
    if kind not in DTYPES:
        raise _damaged(path, f"{name!r} has the unknown dtype {kind[:20]!r}; known: {', '.join(DTYPES)}")
    return DTYPES[kind], shape, first, last


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    if count(shape) == 0:
        return np.empty(shape, dtype)
    raw = np.memmap(path, np.uint8, "r", offset, (count(shape) * dtype.itemsize,))
    return np.frombuffer(raw, dtype).reshape(shape)


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} is not a valid safetensors file: {reason}. Download or save the file again.")
