"""Decode a batch of PNG files of one size in a single call.

Decoding one 32 x 32 file takes about 30 us. Getting the interpreter lock (GIL) back from another thread takes as long,
and pyspng does not release the lock at all. Two Python threads therefore decode no faster than one. TensorStore decodes
any number of chunks in one call without the lock, and a chunk of a Neuroglancer volume may be a PNG file. This module
presents the files of a batch as the slices of an in-memory volume.

The volume has Neuroglancer's "precomputed" format, with a single shard that holds a single minishard: the position of
the chunk index, the chunks, and the index.
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
"""PNG color type by number of channels: grayscale and RGB."""

CACHE_BYTES = 1 << 20
"""Cache size for the chunk index. Without a cache, TensorStore decodes the index again for every chunk."""

OVERHEAD_BYTES = 57
"""Bytes of a plain file other than the compressed pixels: signature, header, end, and framing of the pixel chunk."""


def decode_together(contents: Sequence[bytes], shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w c"] | None:
    """Decode plain PNG files that all have the shape `(H, W, C)`.

    A plain file has 8 bits per channel, is grayscale or RGB, is not interlaced, and consists of a header, one chunk of
    pixels and an end. TensorStore decodes with one thread per core, however many threads call this function.

    Returns:
      Pixels, uint8 `[N, H, W, C]`; or None if any file is not plain, has another shape, or is damaged. Decode the
      files one by one in that case.
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
        return None  # decoding one by one finds the damaged file


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file: length, kind, content and CRC-32."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def _shared_context() -> Any:
    """Return the context whose threads all calls share, since starting threads for each call is slow."""
    import tensorstore

    return tensorstore.Context()


@functools.lru_cache(maxsize=8)
def _plain_header(shape: tuple[int, int, int]) -> bytes:
    """Return the first 33 bytes of a plain file of this shape: the signature and the header chunk."""
    height, width, channels = shape
    return SIGNATURE + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0))


def _has_one_pixel_chunk(content: bytes) -> bool:
    """Return whether a single chunk of pixels fills the space between the header and the end of a plain file."""
    size = len(content) - OVERHEAD_BYTES
    return size > 0 and content[33:41] == struct.pack(">I4s", size, b"IDAT")


def _shard(contents: Sequence[bytes]) -> bytes:
    """Return a Neuroglancer shard that holds `contents` as chunks 0, 1, 2, ..."""
    sizes = [len(content) for content in contents]
    # Rows of the index: increment of the chunk number, gap before the chunk, size of the chunk.
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
