"""Random access to TFRecord files, without TensorFlow.

A record consists of the length of its data (8 bytes), the checksum of the length, the data, and the checksum of the
data. A TFRecord file has no index, so the lengths of all records are read once, when the file is first used.
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
"""Polynomial of CRC-32C (Castagnoli), in reflected bit order."""

BLOCK = 1024
"""Number of bytes in a block. NumPy computes the contributions of all bytes of a block at once."""


SHORT = 64
"""Minimum number of bytes for which computing by blocks is faster than computing byte by byte."""


class Part(NamedTuple):
    """Consecutive records of a file, such as an element of `SplitInfo.file_instructions` of TFDS.

    Attributes:
      filename: path of the file.
      skip: number of records to skip at the start of the file.
      take: number of records to read after the skipped records.
      examples_in_shard: number of records in the file.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class TfRecordSource:
    """Random access to the records of a split. This class is thread-safe.

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
            raise IndexError(f"record index out of range: {index}. Use 0 to {len(self) - 1}")
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
        """Return the file descriptor of a part, the byte offset of each record, and the offset of the end."""
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
    """Return the byte offset of each record in a file, and of the end of the file.

    Raises:
      ValueError: if the file is truncated or damaged, or does not have `part.examples_in_shard` records.
    """
    size, positions = os.fstat(descriptor).st_size, [0]
    while positions[-1] < size:
        header = os.pread(descriptor, HEADER.size, positions[-1])
        if len(header) < HEADER.size:
            raise ValueError(f"the file is truncated: {part.filename}")
        length, checksum = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            raise ValueError(f"wrong checksum of the length of record {len(positions) - 1} in {part.filename}")
        positions.append(positions[-1] + HEADER.size + length + CHECKSUM.size)
    if positions[-1] > size:
        raise ValueError(f"the file is truncated: {part.filename}")
    if len(positions) - 1 != part.examples_in_shard:
        raise ValueError(
            f"wrong number of records in {part.filename}: {len(positions) - 1} instead of {part.examples_in_shard}"
        )
    return np.array(positions, np.int64)


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of `data` in the format of TFRecord: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`.

    A CRC is linear. The contributions of all bytes of a block are looked up in a table and combined by exclusive or.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table = _table()
    if len(data) < SHORT:
        crc = 0xFFFFFFFF
        for value in data:
            crc = int(table[-1, (crc ^ value) & 0xFF]) ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    # Leading zeros do not change a CRC that starts at 0. Inverting the first 4 data bytes is the same as a start at
    # 0xFFFFFFFF.
    padding = -len(data) % BLOCK
    values = np.zeros(padding + len(data), np.uint8)
    values[padding:] = np.frombuffer(data, np.uint8)
    values[padding : padding + CHECKSUM.size] ^= 0xFF
    contributions = np.bitwise_xor.reduce(table[np.arange(BLOCK), values.reshape(-1, BLOCK)], axis=1)
    crc = 0
    for contribution in contributions.tolist():
        # The CRC after a block is combined with the first 4 bytes of the next block.
        for position in range(CHECKSUM.size):
            contribution ^= int(table[position, crc >> 8 * position & 0xFF])
        crc = contribution
    return crc ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    """Return the contribution of a byte to the CRC, by its position in a block and its value: uint32 `[BLOCK, 256]`."""
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, last >> 1 ^ np.uint32(POLYNOMIAL), last >> 1).astype(np.uint32)
    table = np.empty((BLOCK, 256), np.uint32)
    table[-1] = last
    for position in range(BLOCK - 2, -1, -1):  # a byte further from the end is followed by one more zero
        following = table[position + 1]
        table[position] = last[following & 0xFF] ^ following >> 8
    return table
