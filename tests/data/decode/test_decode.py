"""Decoding: the same pixels by every way to them, and damage that is told."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcnn.data import decode
from jaxcnn.data.decode import Geometry, jpeg

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


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_has_the_pixels_that_pillow_gives(mode, channels):
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).convert(mode), "PNG")
    expected = Image.open(io.BytesIO(content)).convert("RGB").convert({1: "L", 3: "RGB"}[channels])
    np.testing.assert_array_equal(decode.decode(content, channels), np.asarray(expected).reshape(13, 17, channels))


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_show_the_background(mode, channels, background):
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 4), dtype=np.uint8)
    if mode == "P":
        image = Image.fromarray(noise[..., :3]).quantize(16)
        content = encoded(image, "PNG", transparency=3)
    else:
        image = Image.fromarray(noise).convert(mode)
        content = encoded(image, "PNG")
    rgba = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), float)
    color, alpha = rgba[..., :3], rgba[..., 3:] / 255
    expected = color * alpha + {"white": 255, "black": 0}[background] * (1 - alpha)
    if channels == 1:
        expected = (expected @ [0.299, 0.587, 0.114])[..., None]
    pixels = decode.decode(content, channels, Geometry(background=background))
    assert np.abs(pixels - expected).max() <= 2  # Pillow rounds more than once


def test_a_transparent_color_of_a_png_shows_the_background():
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "PNG", transparency=tuple(map(int, noise[2, 2])))
    expected = noise.copy()
    expected[2, 2] = 255
    np.testing.assert_array_equal(decode.decode(content, 3), expected)
    assert decode.decode(content, 4)[2, 2, 3] == 0


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
def test_16_bits_are_scaled_to_8(form):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode.decode(encoded(Image.fromarray(values), form), 3)
    np.testing.assert_array_equal(pixels[..., 0], np.arange(256).reshape(16, 16))


def test_pgm_with_16_bits_is_scaled_to_8():
    values = np.linspace(0, 65535, 256).round().astype(">u2")
    pixels = decode.decode(b"P5 16 16 65535\n" + values.tobytes(), 1)
    np.testing.assert_array_equal(pixels.ravel(), np.arange(256))


def test_a_transparent_value_of_16_bits_shows_the_background():
    values = np.full((4, 4), 1000, np.uint16)
    values[1, 2] = 5000
    pixels = decode.decode(encoded(Image.fromarray(values), "PNG", transparency=5000), 1)
    assert pixels[1, 2, 0] == 255
    assert pixels[0, 0, 0] == round(1000 / 257)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(dtype):
    content = encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    for read in (decode.check, lambda content: decode.decode(content, 3)):
        with pytest.raises(ValueError, match="32 bits have no fixed value range"):
            read(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_before_the_crop(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    # A gradient in each direction, and a mark in one corner: no two orientations look alike.
    upright = np.zeros((96, 160, 3), np.uint8)
    upright[..., 0], upright[..., 1] = np.linspace(0, 255, 160), np.linspace(0, 255, 96)[:, None]
    upright[:24, :24, 2] = 255
    content = encoded(Image.fromarray(upright), form, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert decode.check(content) == expected.size[::-1]
    pixels = decode.decode(content, 3)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    for geometry in (Geometry((20, 30), crop_fraction=0.875), Geometry((30, 30), resize="stretch")):
        box = geometry.box(*pixels.shape[:2])
        part = np.asarray(expected.resize(geometry.size[::-1], Image.Resampling.BILINEAR, box=box), int)
        assert np.abs(decode.decode(content, 3, geometry) - part).mean() < 1.5


def test_an_image_of_the_wanted_size_is_not_changed():
    noise = np.random.default_rng(1).integers(256, size=(13, 17, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG"):
        content = encoded(Image.fromarray(noise), form)
        for resize in ("shorter", "stretch", 17):
            geometry = Geometry((13, 17), resize) if resize != 17 else Geometry((13, 17), 13)
            np.testing.assert_array_equal(decode.decode(content, 3, geometry), decode.decode(content, 3))


def test_damaged_metadata_means_upright():
    content = encoded(SMOOTH, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode.check(content) == (9, 12)
    assert decode.decode(content, 3).shape == (9, 12, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_truncated_files_are_refused(form):
    content = encoded(Image.effect_noise((40, 30), 50).convert("RGB"), form)
    decode.check(content)
    with pytest.raises(ValueError, match="image"):
        decode.check(content[: len(content) // 2])


def test_what_pillow_accepts_is_accepted():
    content = encoded(SMOOTH.resize((40, 30)), "JPEG")
    decode.check(content + b"more")
    decode.check(content[:-2] + b"\0\0\0" + content[-2:])  # libjpeg warns: extraneous bytes before marker 0xd9


def test_a_file_without_an_image_is_told_from_a_damaged_one():
    for content in (b"", b"text", b"\xff\xd8\xff", bytes(1000)):
        with pytest.raises(ValueError, match="image"):
            decode.check(content)
    # Pillow knows EPS, but starts Ghostscript for it, which runs the program in the file.
    for content in (b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89HDF\r\n\x1a\n" + bytes(99)):
        with pytest.raises(decode.NotAnImageError):
            decode.check(content)


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
            made.append(decode.decode(content, 3, Geometry(size), Fixed(), random))
        return made

    ours = parts()
    monkeypatch.setattr(jpeg, "without_rows_below", lambda content, bottom: content)
    monkeypatch.setattr(jpeg, "buffer", lambda needed: None)
    for part, whole in zip(ours, parts(), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_rows_that_are_not_needed_are_not_decoded():
    content = encoded(SMOOTH.resize((333, 251)), "JPEG")
    assert jpeg.stored_size(jpeg.without_rows_below(content, 40)) == (64, 333)
    assert jpeg.without_rows_below(content, 251) == content
    progressive = encoded(SMOOTH.resize((333, 251)), "JPEG", progressive=True)
    assert jpeg.without_rows_below(progressive, 40) == progressive


def test_formats_of_installed_plugins_are_read(tmp_path, monkeypatch):
    """The stand-in for a plugin of JPEG XL opens a format of one color."""
    (tmp_path / "pillow_jxl.py").write_text(
        "from PIL import Image, ImageFile\n"
        "class Plain(ImageFile.ImageFile):\n"
        "    format = 'PLAIN'\n"
        "    def _open(self):\n"
        "        self._mode, self._size, self.tile = 'RGB', (3, 2), [('raw', (0, 0, 3, 2), 5, 'RGB')]\n"
        "Image.register_open('PLAIN', Plain, lambda start: start[:5] == b'PLAIN')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    content = b"PLAIN" + bytes(range(18))
    with pytest.raises(decode.NotAnImageError):
        decode.check(content)
    decode.readable_formats.cache_clear()
    try:
        assert decode.check(content) == (2, 3)
        assert decode.decode(content, 3).ravel().tolist() == [*range(18)]
    finally:
        sys.modules.pop("pillow_jxl", None)
        decode.readable_formats.cache_clear()
