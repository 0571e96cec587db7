"""Decode a batch of PNG files of one size in a single call.

Decoding one PNG file of 32 x 32 pixels takes about 30 us. A thread of Python needs the same time to get the interpreter
lock (GIL) back from another thread, and pyspng does not release the lock at all. Two Python threads therefore decode no
faster than one thread. TensorStore decodes any number of chunks in one call without the GIL, and a chunk of a
Neuroglancer volume may be a PNG file. This module presents the files of a batch as the slices of a Neuroglancer volume
in memory.

The volume has Neuroglancer's "precomputed" format, with one shard, which has one minishard. The shard stores the
position of the chunk index, then the chunks, then the chunk index.
"""

import functools
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.array_types import UInt8

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {1: 0, 3: 2}
"""PNG color type for each number of channels: grayscale for 1 channel, and RGB for 3 channels."""

CACHE_BYTES = 1 << 20
"""TensorStore's cache size for the chunk index, in bytes. Without a cache, the index is decoded for each chunk."""

OVERHEAD_BYTES = 57
"""Number of bytes of a plain PNG file besides the compressed pixels: signature, header, end, and chunk framing."""


def decode_together(contents: Sequence[bytes], shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w c"] | None:
    """Decode several plain PNG files, which all have the shape `(H, W, C)`, in a single call.

    A plain file has 8 bits per channel, is grayscale or RGB, and is not interlaced. The file consists of a header, one
    chunk of pixels and an end. TensorStore always uses one thread per core. The number of threads that call this
    function has no effect.

    Returns:
      Pixels, uint8 `[N, H, W, C]`; or None if any file is not plain, has a shape other than `(H, W, C)`, or is damaged.
      If the result is None, decode the files one by one.
    """
    if not contents or shape[-1] not in COLOR_TYPES:
        return None
    header, end = _plain_header(shape), _png_chunk(b"IEND", b"")
    for content in contents:
        if not (content.startswith(header) and content.endswith(end) and _has_one_pixel_chunk(content)):
            return None

    import tensorstore  # slow to import

    spec = {"memory_key_value_store": {}, "cache_pool": {"total_bytes_limit": CACHE_BYTES}}
    context: Any = tensorstore.Context(spec, parent=_shared_context())
    try:
        files: Any = tensorstore.KvStore.open("memory://", context=context).result()
        files.write("images/0.shard", _shard(contents)).result()
        volume: Any = tensorstore.open(_volume_spec(len(contents), shape), context=context).result()
        x, y, z, channel = 0, 1, 2, 3
        return volume.transpose([z, y, x, channel]).read(order="C").result()
    except (ValueError, OSError, RuntimeError):
        return None  # the caller decodes the files one by one, and finds the damaged file


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file: length, kind, content and CRC-32."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def _shared_context() -> Any:
    """Return the context that all calls share. Starting the threads of a new context for each call would be slow."""
    import tensorstore

    return tensorstore.Context()


@functools.lru_cache(maxsize=8)
def _plain_header(shape: tuple[int, int, int]) -> bytes:
    """Return the first 33 bytes of a plain PNG file of the given shape: the signature and the header chunk."""
    height, width, channels = shape
    return SIGNATURE + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0))


def _has_one_pixel_chunk(content: bytes) -> bool:
    """Return whether a single chunk of pixels fills the space between the header and the end of a plain file."""
    size = len(content) - OVERHEAD_BYTES
    return size > 0 and content[33:41] == struct.pack(">I4s", size, b"IDAT")


def _shard(contents: Sequence[bytes]) -> bytes:
    """Return a Neuroglancer shard that stores `contents` as chunks 0, 1, 2, ..."""
    sizes = [len(content) for content in contents]
    # Rows of the index, for each chunk: increment of the chunk number, gap before the chunk, size of the chunk.
    number_steps = [0] + [1] * (len(sizes) - 1)
    gaps = [0] * len(sizes)
    index = np.array([number_steps, gaps, sizes], "<u8").tobytes()
    start = sum(sizes)
    return b"".join((struct.pack("<QQ", start, start + len(index)), *contents, index))


def _volume_spec(count: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the TensorStore spec of a volume whose slices along z are `count` images."""
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
