"""PNG files of one size, decoded in one call.

Two threads that decode a file of 32 x 32 a call are no faster than one: the call takes some 30 us, and getting the
interpreter's lock back from another thread as long, or, as with pyspng, the lock is kept meanwhile. TensorStore reads
any number of chunks in one call without that lock, and a chunk of a volume of Neuroglancer's may be a PNG file. So the
files of a batch are made the slices of a volume in memory.

The volume is what Neuroglancer calls precomputed, in its sharded format with a single shard that has a single
minishard: where the index of the chunks is, the chunks, and that index.
"""

import functools
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 3: 2}
"""PNG's number for grey and for RGB, by the number of channels."""

CACHE_BYTES = 1 << 20
"""Room for the index of the chunks, which without it is decoded for each chunk anew."""

AROUND = 57
"""Bytes of a plain file that are not its compressed pixels: signature, header, end, and what is around the pixels."""


def decode_together(contents: Sequence[bytes], shape: tuple[int, int, int]) -> np.ndarray | None:
    """The pixels, uint8 `[N, H, W, C]`, of plain PNG files that all have the shape `(H, W, C)`.

    Plain is of 8 bits a channel, grey or RGB, not interlaced, with a header, one chunk of pixels, an end and nothing
    else. As many threads as there are cores decode, whatever number of threads call.

    Returns:
      None if any content is not plain, of another shape, or damaged: one to be decoded, or refused, by itself.
    """
    if not contents or shape[-1] not in COLOURS:
        return None
    header, end = _header(shape), png_chunk(b"IEND", b"")
    for content in contents:
        if not (content.startswith(header) and content.endswith(end) and _has_one_chunk(content)):
            return None

    import tensorstore  # whose start is slow

    own = {"memory_key_value_store": {}, "cache_pool": {"total_bytes_limit": CACHE_BYTES}}
    context: Any = tensorstore.Context(own, parent=_threads())
    try:
        files: Any = tensorstore.KvStore.open("memory://", context=context).result()
        files.write("images/0.shard", _shard(contents)).result()
        volume: Any = tensorstore.open(_volume(len(contents), shape), context=context).result()
        x, y, z, channel = 0, 1, 2, 3
        return volume.transpose([z, y, x, channel]).read(order="C").result()
    except (ValueError, OSError, RuntimeError):
        return None  # decoding one by one says what is wrong with which


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def _threads() -> Any:
    """The context whose threads decode for every call: new ones would start too late."""
    import tensorstore

    return tensorstore.Context()


@functools.lru_cache(maxsize=8)
def _header(shape: tuple[int, int, int]) -> bytes:
    """What a plain file of this shape begins with."""
    height, width, channels = shape
    return SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0))


def _has_one_chunk(content: bytes) -> bool:
    """Whether what is between the header and the end of a plain file is one intact chunk of pixels."""
    size = len(content) - AROUND
    return content[33:41] == struct.pack(">I4s", size, b"IDAT") if size > 0 else False


def _shard(contents: Sequence[bytes]) -> bytes:
    """A shard of Neuroglancer's with these chunks, numbered from 0."""
    sizes = [len(content) for content in contents]
    # Of each chunk: its number and its start, both as what they are more than those before say, and its size.
    index = np.array([[0] + [1] * (len(sizes) - 1), [0] * len(sizes), sizes], "<u8").tobytes()
    start = sum(sizes)
    return b"".join((struct.pack("<QQ", start, start + len(index)), *contents, index))


def _volume(count: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What TensorStore has to know of the volume whose slices along z are the images."""
    height, width, channels = shape
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": "memory://",
        "open": True,
        "assume_metadata": True,
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": channels},
        "scale_metadata": {
            "key": "images",
            "size": [width, height, count],
            "chunk_size": [width, height, 1],
            "resolution": [1, 1, 1],
            "encoding": "png",
            "sharding": {
                "@type": "neuroglancer_uint64_sharded_v1",
                "hash": "identity",
                "preshift_bits": 0,
                "minishard_bits": 0,
                "shard_bits": 0,
                "minishard_index_encoding": "raw",
                "data_encoding": "raw",
            },
        },
    }
