"""Archives and images that a stranger made: refused in one line, before they take memory or touch other files."""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcnn import weights
from jaxcnn.data import decode, open_dataset
from jaxcnn.data.preparation import originals
from jaxcnn.errors import UsageError
from jaxcnn.predict.search import find_images
from jaxcnn.train.runtime import workdir

SIDE = 46_341  # squared, more than 2^31


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height, width):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def jpeg(height, width):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def bmp(height, width):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def tiff(height, width):
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, height * width % 2**32)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif(height, width):
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b";"


BOMBS = {
    "png": png(SIDE, SIDE),
    "tall.png": png(2**31 - 1, 1),
    "jpg": jpeg(SIDE, SIDE),
    "bmp": bmp(SIDE, SIDE),
    "tiff": tiff(SIDE, SIDE),
    "gif": gif(SIDE, SIDE),
    "pgm": f"P5 {SIDE} {SIDE} 255\n".encode(),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("size", [None, (28, 28)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_two_billion_pixels_is_refused_before_it_is_decoded(name, size, channels, limited_memory):
    with limited_memory(2**30), pytest.raises(ValueError, match=r"."):
        decode.decode(BOMBS[name], channels, decode.Geometry(size))
    with limited_memory(2**30), pytest.raises(ValueError, match=r"."):
        decode.check(BOMBS[name])


@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_an_archive_of_numpy_that_unpacks_to_far_more_is_refused(how, tmp_path, limited_memory):
    file = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**33, 1, 1)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{name}.npy", "w") as entry:
                entry.write(header.getvalue())
                for _ in range(1100 if how == "deflated" and name == "x_train" else 1):
                    entry.write(bytes(2**20))
    assert file.stat().st_size < 2**23
    with limited_memory(2**30), pytest.raises(UsageError, match=r"is refused: x_train|is not an intact npz file"):
        open_dataset(f"npz:{file}")


def test_gzip_files_that_unpack_to_more_than_an_original_are_refused(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr(originals, "MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(UsageError, match="unpacks to more than 1,048,576 bytes"):
        originals.unpack(tmp_path / "a.gz", gzip.compress(bytes(2**21)))


OUTSIDE = ["../outside", "/tmp/outside-of-jaxcnn", "a/../../outside", "..\\outside"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_of_archives_never_leave_them(name, tmp_path):
    archive = tmp_path / "inside" / "weights.pt"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(name, b"x")
        zipped.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(UsageError, match="points outside the archive"):
        weights.load("lenet5", archive)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as packed:
        for kind, target in ((tarfile.REGTYPE, ""), (tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "/etc/passwd")):
            member = tarfile.TarInfo(f"{name}/data_batch_1.bin")
            member.type, member.linkname, member.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            packed.addfile(member, io.BytesIO(b"abc"))
    # Members are read into memory by the last part of their names; links are not followed.
    assert originals._extract(archive, tar.getvalue(), ["data_batch_1.bin"]) == {"data_batch_1.bin": b"abc"}
    assert {path.name for path in tmp_path.rglob("*")} == {"inside", "weights.pt"}


def test_links_in_a_run_directory_are_replaced_and_never_written_through(tmp_path):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    run.mkdir()
    for name in ("result.json", ".result.part.json", ".lock"):
        (run / name).symlink_to(victim)
    workdir.write_json(run / "result.json", {"a": 1})
    assert not (run / "result.json").is_symlink()
    with pytest.raises(OSError, match="symbolic link"), workdir.exclusive(run):
        pass
    assert victim.read_text() == "mine"


def test_what_only_looks_like_an_image_is_not_given_to_other_programs(tmp_path):
    (tmp_path / "a").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n")
    with pytest.raises(UsageError, match="no images found"):
        find_images([tmp_path])
    assert "EPS" not in decode.readable_formats()
