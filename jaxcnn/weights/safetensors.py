"""The safetensors format, read and written: eight bytes that give the header's length, a header in JSON, the arrays.

Source: the format's description in the repository of huggingface/safetensors (version 0.4 and later). A header is
trusted in nothing: an array's place must lie in the file, have the size that its shape asks for, and no two arrays
may share a byte.
"""

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights._stored import BFLOAT16, Stored, count

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
LONGEST_HEADER = 100_000_000  # the format's own limit


def read(path: Path) -> dict[str, Stored]:
    """The arrays in a safetensors file, by name; the file is mapped, and pages are read as arrays are.

    Raises:
      UsageError: a file that is cut off, or whose header does not agree with it.
    """
    header, start, size = _header(path)
    header.pop("__metadata__", None)
    arrays = {}
    places = []
    for name, entry in header.items():
        dtype, shape, first, last = _entry(path, name, entry)
        if not first <= last <= size or last - first != count(shape) * dtype.itemsize:
            raise _damaged(path, f"{name!r} cannot lie in bytes {first} to {last} of {size} with shape {list(shape)}")
        places.append((first, last, name))
        arrays[name] = Stored(shape, dtype, lambda d=dtype, s=shape, o=start + first: _map(path, d, s, o))
    places.sort()
    for (_, last, name), (first, _, other) in pairwise(places):
        if first < last:
            raise _damaged(path, f"{name!r} and {other!r} share bytes")
    return arrays


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself.

    Raises:
      UsageError: as `read`.
    """
    table = _header(path)[0].get("__metadata__", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise _damaged(path, "its __metadata__ is not a table of text")
    return table


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays by name, in one stroke: whoever reads the file sees the old one or the new one, never a part.

    Raises:
      UsageError: a path that cannot be written.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        place = [end, end + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": place}
        end = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays start at a multiple of eight bytes
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the arrays start in the file, and how many bytes they have."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise _damaged(path, f"its header should have {length:,} bytes, the file has {size:,}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON that can be read ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    return header, 8 + length, size - 8 - length


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, first byte and the one behind the last, of a header's entry."""
    try:
        kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"{name!r} lacks a dtype, a shape or two data_offsets") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise _damaged(path, f"{name!r} has a shape or a place that is not of whole numbers")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise _damaged(path, f"{name!r} has the type {str(kind)[:20]!r}, which is none of {', '.join(DTYPES)}")
    return DTYPES[kind], shape, first, last


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    if count(shape) == 0:
        return np.empty(shape, dtype)
    raw = np.memmap(path, np.uint8, "r", offset, (count(shape) * dtype.itemsize,))
    return np.frombuffer(raw, dtype).reshape(shape)


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is not a sound safetensors file: {why}")
