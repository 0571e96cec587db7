"""Random access to TFRecord files, without TensorFlow.

A record is its length (8 bytes), the checksum of the length, the data, and the checksum of the data. The files have no
index: the lengths are read once, when a file is first used.
"""

import functools
import itertools
import os
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), with reflected bits."""

BLOCK = 1024
"""Number of bytes whose checksum is computed at once."""


SHORT = 64
"""Number of bytes from which computing a block is faster than one byte after the other."""


class Part(NamedTuple):
    """Records of a file, such as an element of `SplitInfo.file_instructions` of TFDS.

    Attributes:
      filename: path of the file.
      skip: number of records before the first.
      take: number of records.
      examples_in_shard: number of records in the file.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class TfRecordSource:
    """The records of a split. Thread-safe.

    Args:
      parts: parts of files, in order: `info.splits[split].file_instructions` of TFDS, or `Part` tuples.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(part.take for part in self._parts))
        self._files: dict[int, tuple[int, np.ndarray]] = {}  # part -> file descriptor, and position of each record
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Return the records at `indices`.

        Raises:
          IndexError: if an index is out of range.
          ValueError: if a file is damaged.
          OSError: if a file cannot be read.
        """
        return [self._read(int(index)) for index in indices]

    def __del__(self) -> None:
        for descriptor, _ in self._files.values():
            os.close(descriptor)

    def _read(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"record index out of range: {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        descriptor, positions = self._open(number)
        place = index - (self._ends[number] - part.take) + part.skip
        start, end = int(positions[place]), int(positions[place + 1])
        record = os.pread(descriptor, end - start, start)
        data = record[HEADER.size : -CHECKSUM.size]
        if len(record) != end - start or masked_crc32c(data) != CHECKSUM.unpack(record[-CHECKSUM.size :])[0]:
            raise ValueError(f"wrong checksum of record {place} in {part.filename}")
        return data

    def _open(self, number: int) -> tuple[int, np.ndarray]:
        """Return the file descriptor of a part, and the position of each record and of the end."""
        with self._lock:
            if number not in self._files:
                part = self._parts[number]
                descriptor = os.open(part.filename, os.O_RDONLY)
                try:
                    self._files[number] = descriptor, _positions(descriptor, part)
                except BaseException:
                    os.close(descriptor)
                    raise
            return self._files[number]


def _positions(descriptor: int, part: Part) -> np.ndarray:
    """Return the position of each record of a file, and that of its end.

    Raises:
      ValueError: if the file is truncated, damaged, or has another number of records.
    """
    size, positions = os.fstat(descriptor).st_size, [0]
    while positions[-1] < size:
        header = os.pread(descriptor, HEADER.size, positions[-1])
        if len(header) < HEADER.size:
            raise ValueError(f"truncated: {part.filename}")
        length, checksum = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            raise ValueError(f"wrong checksum of the length of record {len(positions) - 1} in {part.filename}")
        positions.append(positions[-1] + HEADER.size + length + CHECKSUM.size)
    if positions[-1] > size:
        raise ValueError(f"truncated: {part.filename}")
    if len(positions) - 1 != part.examples_in_shard:
        raise ValueError(f"{len(positions) - 1} records instead of {part.examples_in_shard} in {part.filename}")
    return np.array(positions, np.int64)


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecord: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`.

    A CRC is linear: the contributions of the bytes of a block are looked up at once, and combined by exclusive or.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _table()
    if len(data) < SHORT:
        crc = 0xFFFFFFFF
        for value in data:
            crc = int(table[-1, (crc ^ value) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    # Zeros before the data do not change a CRC that starts at zero. One that starts at 0xFFFFFFFF inverts 4 bytes.
    padding = -len(data) % BLOCK
    values = np.zeros(padding + len(data), np.uint8)
    values[padding:] = np.frombuffer(data, np.uint8)
    values[padding : padding + CHECKSUM.size] ^= 0xFF
    contributions = np.bitwise_xor.reduce(table[np.arange(BLOCK), values.reshape(-1, BLOCK)], axis=1)
    crc = 0
    for contribution in contributions.tolist():
        # The state after a block enters the next one as its first 4 bytes.
        for position in range(CHECKSUM.size):
            contribution ^= int(table[position, crc >> 8 * position & 0xFF])
        crc = contribution
    return crc ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    """Return the contribution of each byte of a block to the CRC, by its position and value, uint32 `[BLOCK, 256]`."""
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, last >> 1 ^ np.uint32(POLYNOMIAL), last >> 1).astype(np.uint32)
    table = np.empty((BLOCK, 256), np.uint32)
    table[-1] = last
    for position in range(BLOCK - 2, -1, -1):  # a byte further from the end is followed by one more zero
        following = table[position + 1]
        table[position] = last[following & 0xFF] ^ following >> 8
    return table
