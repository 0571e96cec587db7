"""Verify a TensorBoard event file, a series of TFRecords. Masked CRC-32Cs protect length and data of a TFRecord."""

import struct
from pathlib import Path

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")


def check_events(path: Path) -> str | None:
    """Return one line that describes the damage of a TensorBoard event file, or None if the file is intact."""
    from tensorboardX.record_writer import masked_crc32c

    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not content:
        return "empty"
    place, number = 0, 0
    while place < len(content):
        number += 1
        if len(content) - place < HEADER.size:
            return f"ends within record {number}"
        length, checksum = HEADER.unpack_from(content, place)
        if masked_crc32c(content[place : place + 8]) != checksum:
            return f"the length of record {number} does not match its checksum"
        place += HEADER.size
        if len(content) - place < length + CHECKSUM.size:
            return f"ends within record {number}"
        data = content[place : place + length]
        if masked_crc32c(data) != CHECKSUM.unpack_from(content, place + length)[0]:
            return f"record {number} does not match its checksum"
        place += length + CHECKSUM.size
    return None
