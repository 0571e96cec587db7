"""Decoding: the same pixels by every way to them, and damage that is told."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import decode

SMOOTH = Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 12, 3), dtype=np.uint8))


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


class Fixed(decode.RandomBox):
    """Draws the same part always."""

    box = decode.Box(0, 0, 0, 0)

    def draw(self, height, width, random):
        return self.box


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_has_the_pixels_that_pillow_gives(mode, channels):
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(noise).convert(mode)
    content = encoded(image, "PNG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert({1: "L", 3: "RGB"}[channels]))
    np.testing.assert_array_equal(decode.decode(content, channels), expected.reshape(13, 17, channels))


def test_a_png_with_a_transparent_color_keeps_its_three_channels():
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "PNG", transparency=tuple(map(int, noise[2, 2])))
    np.testing.assert_array_equal(decode.decode(content, 3), noise)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_damaged_png_is_refused():
    content = encoded(SMOOTH.resize((40, 30)), "PNG")
    huge = content[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)) + content[33:]
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0xFF
    for damaged in (content[: len(content) // 2], bytes(changed), content[:30], huge):
        with pytest.raises(ValueError, match="image"):
            decode.decode(damaged, 3)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
@pytest.mark.parametrize("size", [(24, 24), (120, 120)])
def test_a_part_of_a_jpeg_does_not_depend_on_what_is_not_decoded(subsampling, options, size, monkeypatch):
    content = encoded(SMOOTH.resize((333, 251)), "JPEG", subsampling=subsampling, quality=90, **options)
    boxes = [decode.Box(left, top, left + 140, top + 130) for left, top in ((0, 0), (10, 3), (193, 121), (57, 110))]
    random = np.random.default_rng()

    def parts():
        made = []
        for Fixed.box in boxes:
            made.append(decode.decode_part(content, size, 3, Fixed(), random))
        return made

    ours = parts()
    monkeypatch.setattr(decode, "_without_rows_below", lambda content, bottom: content)
    monkeypatch.setattr(decode, "_buffer", lambda needed: None)
    for part, whole in zip(ours, parts(), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_rows_that_are_not_needed_are_not_decoded():
    content = encoded(SMOOTH.resize((333, 251)), "JPEG")
    assert decode.size_of(decode._without_rows_below(content, 40)) == (64, 333)
    assert decode._without_rows_below(content, 251) == content
    progressive = encoded(SMOOTH.resize((333, 251)), "JPEG", progressive=True)
    assert decode._without_rows_below(progressive, 40) == progressive
