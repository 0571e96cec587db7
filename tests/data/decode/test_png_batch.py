"""PNG files decoded together have the pixels that they have one by one, or are left to be decoded one by one."""

import concurrent.futures
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn.data import decode
from jaxcnn.data.datasets import open_dataset
from jaxcnn.data.decode import decode_together
from jaxcnn.data.tfds_dataset import Encoded
from jaxcnn.errors import UsageError

GREY, RGB = 0, 2


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, colours, compressed, *, bits=8, interlaced=0, before=b"", after=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", compressed) + after + chunk(b"IEND", b"")


def filtered_rows(random, height, width, channels):
    """Rows as a PNG has them, of any bytes, with any of the five filters; the first row's too."""
    rows = random.integers(256, size=(height, 1 + width * channels), dtype=np.uint8)
    rows[:, 0] = random.integers(5, size=height)
    return rows.tobytes()


def one_by_one(contents, channels):
    return np.stack([decode.decode(content, channels) for content in contents])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
)
def test_plain_files_with_any_filters_have_the_pixels_that_pillow_gives(seed, count, height, width, channels):
    random, colours = np.random.default_rng(seed), {1: GREY, 3: RGB}[channels]
    contents = [
        png(width, height, colours, zlib.compress(filtered_rows(random, height, width, channels))) for _ in range(count)
    ]
    together = decode_together(contents, (height, width, channels))
    assert together is not None
    assert (together.dtype, together.flags.c_contiguous) == (np.uint8, True)
    expected = [np.asarray(Image.open(io.BytesIO(content))) for content in contents]
    np.testing.assert_array_equal(together, np.stack(expected).reshape(count, height, width, channels))


PLAIN = png(6, 5, RGB, zlib.compress(filtered_rows(np.random.default_rng(0), 5, 6, 3)))
OTHERS = ["RGBA", "LA", "P", "1", "I;16", "L", "interlaced", "transparent", "comment", "two chunks", "larger", "JPEG"]


def other_file(kind):
    """A file of 5 x 6 that is not plain RGB, or not of this size."""
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(256, size=(5, 6, 3), dtype=np.uint8))
    rows = zlib.compress(filtered_rows(random, 5, 6, 3))
    if kind == "interlaced":
        passes = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 3), (2, 6)]  # rows and columns of Adam7's
        parts = [filtered_rows(random, height, width, 3) for height, width in passes]
        return png(6, 5, RGB, zlib.compress(b"".join(parts)), interlaced=1)
    if kind == "transparent":
        return png(6, 5, RGB, rows, before=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    if kind == "comment":
        return png(6, 5, RGB, rows, before=chunk(b"tEXt", b"Comment\0none"))
    if kind == "two chunks":
        return png(6, 5, RGB, rows[:20], after=chunk(b"IDAT", rows[20:]))
    if kind == "I;16":
        image = Image.fromarray(random.integers(2**16, size=(5, 6), dtype=np.uint16))
    elif kind == "larger":
        image = noise.resize((7, 5))
    else:
        image = noise if kind == "JPEG" else noise.convert(kind)
    file = io.BytesIO()
    image.save(file, "JPEG" if kind == "JPEG" else "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_not_plain_is_decoded_separately(kind):
    content = other_file(kind)
    assert decode.decode(content, 3).shape == (5, 7 if kind == "larger" else 6, 3)
    assert decode_together([PLAIN, content], (5, 6, 3)) is None


def test_a_batch_with_some_files_that_are_not_plain_is_decoded_completely(grey):
    dataset = open_dataset("mnist", grey)
    examples = dataset.read_encoded("train", range(20))
    images = dataset.read("train")[0][:20]
    paletted = io.BytesIO()
    Image.fromarray(images[3][..., 0]).convert("P").save(paletted, "PNG")
    examples[3] = Encoded(paletted.getvalue(), examples[3].label)
    np.testing.assert_array_equal(dataset.decode_batch(examples), images)
    assert dataset.decode_batch([]).shape == (0, 28, 28, 1)


def test_one_damaged_image_of_a_batch_is_reported(grey):
    dataset = open_dataset("mnist", grey)
    examples = dataset.read_encoded("train", range(20))
    examples[7] = Encoded(examples[7].image[:200], examples[7].label)
    with pytest.raises(UsageError, match=r"'mnist' in .* is damaged: .*image.*\. Run jaxcnn prepare mnist --force"):
        dataset.decode_batch(examples)


@settings(deadline=None, max_examples=150)
@given(place=st.integers(0, len(PLAIN) - 1), how=st.sampled_from(["change", "cut", "remove", "insert"]))
@example(place=len(PLAIN) - 1, how="cut")
@example(place=len(PLAIN) - 17, how="change")
def test_damage_anywhere_in_a_file_is_found(place, how):
    damaged = {
        "change": PLAIN[:place] + bytes([PLAIN[place] ^ 16]) + PLAIN[place + 1 :],
        "cut": PLAIN[:place],
        "remove": PLAIN[:place] + PLAIN[place + 1 :],
        "insert": PLAIN[:place] + b"\x07" + PLAIN[place:],
    }[how]
    assert damaged != PLAIN
    assert decode_together([PLAIN, damaged, PLAIN], (5, 6, 3)) is None


@settings(deadline=None, max_examples=100)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_a_corrupt_stream_with_a_valid_checksum_decodes_as_it_does_alone(place, bit, cut):
    stream = bytearray(zlib.compress(filtered_rows(np.random.default_rng(0), 5, 6, 3)))
    place %= len(stream)
    stream[place] ^= 1 << bit
    content = png(6, 5, RGB, bytes(stream[:place] if cut else stream))
    together = decode_together([PLAIN, content], (5, 6, 3))
    if together is not None:
        np.testing.assert_array_equal(together, one_by_one([PLAIN, content], 3))


def test_threads_that_decode_at_once_do_not_mix_their_files():
    random = np.random.default_rng(0)
    contents = [png(8, 8, GREY, zlib.compress(filtered_rows(random, 8, 8, 1))) for _ in range(64)]
    pixels = one_by_one(contents, 1)
    chosen = [random.integers(64, size=int(random.integers(1, 80))) for _ in range(120)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        batches = pool.map(lambda places: decode_together([contents[place] for place in places], (8, 8, 1)), chosen)
        for places, batch in zip(chosen, batches, strict=True):
            assert batch is not None
            np.testing.assert_array_equal(batch, pixels[places])
