"""PyTorch's files are read to the last bit, without PyTorch; damaged and hostile ones are told in one line."""

import contextlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.weights.torch_files import read

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = {
    "0.weight": (4, 3, 3, 3),
    "0.bias": (4,),
    "1.weight": (4,),
    "1.bias": (4,),
    "1.running_mean": (4,),
    "1.running_var": (4,),
    "1.num_batches_tracked": (),
    "2.weight": (2, 4),
    "2.bias": (2,),
}
FILES = {
    "archive": "f4",
    "stream": "f4",
    "module": "f4",
    "checkpoint": "f4",
    "parameters": "f4",
    "half": "f2",
    "bfloat16": "bfloat16",
    "views": "f8",
}


def expected() -> dict[str, np.ndarray]:
    """The numbers that `golden/make.py` gave the network."""
    arrays, start = {}, 0
    for name, shape in SHAPES.items():
        arrays[name] = np.arange(start, start + int(np.prod(shape))).reshape(shape)
        start += arrays[name].size
    return arrays


@pytest.mark.parametrize("file", FILES)
def test_what_pytorch_wrote_is_read_to_the_last_bit(file):
    wanted, arrays = expected(), read(GOLDEN / f"{file}.pth")
    prefix = "model.module." if file == "checkpoint" else ""
    if file == "parameters":
        wanted = {name: value for name, value in wanted.items() if "running" not in name and "num" not in name}
    assert set(arrays) == {prefix + name for name in wanted}
    for name, value in wanted.items():
        array = arrays[prefix + name]
        assert array.shape == value.shape
        if file == "views":
            value = value.reshape(-1).reshape(value.shape[::-1]).T
        assert array.dtype == np.dtype(
            "i8" if "num" in name and file not in ("half", "bfloat16", "views") else FILES[file]
        )
        np.testing.assert_array_equal(array.read(), value.astype(array.dtype))


def test_pytorch_reads_the_same():
    torch = pytest.importorskip("torch")
    for file in ("archive", "stream", "half", "views"):
        theirs = torch.load(GOLDEN / f"{file}.pth", weights_only=True)
        for name, stored in read(GOLDEN / f"{file}.pth").items():
            np.testing.assert_array_equal(stored.read(), theirs[name].numpy())


def rewritten(tmp_path: Path, change, compression=zipfile.ZIP_STORED) -> Path:
    """A copy of the archive whose entries, a dict of bytes by name, were changed."""
    with zipfile.ZipFile(GOLDEN / "archive.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    path = tmp_path / "changed.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


class Touch:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["archive", "stream"])
def test_a_hostile_file_is_refused_and_not_run(kind, tmp_path):
    marker = tmp_path / "marker"
    bad = pickle.dumps({"weight": Touch(marker)}, protocol=2)
    if kind == "archive":
        path = rewritten(tmp_path, lambda entries: entries.update({"archive/data.pkl": bad}))
    else:
        path = tmp_path / "stream.pth"
        first = [pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join([*first, bad, pickle.dumps([], protocol=2)]))
    with pytest.raises(UsageError, match=r"asks for posix\.system"):
        read(path)
    assert not marker.exists()


def swap_storage(entries):
    entries["archive/data/0"] = entries["archive/data/0"][:-4]


ARCHIVES = {
    "points outside the archive": (lambda e: e.update({"../../.bashrc": b"x"}), zipfile.ZIP_STORED),
    "points outside the": (lambda e: e.update({"/etc/passwd": b"x"}), zipfile.ZIP_STORED),
    "points outside": (lambda e: e.update({"archive\\..\\x": b"x"}), zipfile.ZIP_STORED),
    "is compressed. Save": (lambda e: e.update({"archive/data/0": bytes(50_000_000)}), zipfile.ZIP_DEFLATED),
    "contains 0 files named data.pkl instead of one": (
        lambda e: e.pop("archive/data.pkl"),
        zipfile.ZIP_STORED,
    ),
    "contains 2 files named data.pkl instead of one": (
        lambda e: e.update({"other/data.pkl": b"x"}),
        zipfile.ZIP_STORED,
    ),
    "data.pkl is too large": (
        lambda e: e.update({"archive/data.pkl": bytes(65 * 2**20)}),
        zipfile.ZIP_STORED,
    ),
    "has no entry 'data/0'": (lambda e: e.pop("archive/data/0"), zipfile.ZIP_STORED),
    "has the wrong size: 428 bytes for 108 values": (swap_storage, zipfile.ZIP_STORED),
    "contains no state dict": (lambda e: e.update({"archive/data.pkl": pickle.dumps([1, 2])}), zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("says", ARCHIVES)
def test_a_hostile_archive_is_one_line(says, tmp_path):
    path = rewritten(tmp_path, *ARCHIVES[says])
    with pytest.raises(UsageError) as error:
        [stored.read() for stored in read(path).values()]
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["changed.pth"]


def test_a_big_endian_archive_is_byte_swapped(tmp_path):
    def swap(entries):
        entries["archive/byteorder"] = b"big"
        for name in entries:
            if "/data/" in name:
                width = "<i8" if len(entries[name]) == 8 else "<f4"
                entries[name] = np.frombuffer(entries[name], width).byteswap().tobytes()

    # The two values of the classifier's bias are eight bytes too, but two numbers.
    arrays = read(rewritten(tmp_path, swap))
    np.testing.assert_array_equal(arrays["0.weight"].read(), expected()["0.weight"])


@pytest.mark.parametrize("file", ["archive", "stream"])
def test_a_truncated_file_is_one_line(file, tmp_path):
    content = (GOLDEN / f"{file}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["archive", "stream", "checkpoint", "views"])
def test_damage_to_any_byte_is_at_most_a_one_line_error(file, tmp_path):
    content = (GOLDEN / f"{file}.pth").read_bytes()
    generator = random.Random(0)
    path = tmp_path / "damaged.pth"
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.choice([1, 1, 2, 8])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(UsageError):
            for stored in read(path).values():
                assert stored.read().shape == stored.shape


def test_an_archive_with_wrong_lengths_in_its_directory_is_one_line(tmp_path):
    content = bytearray((GOLDEN / "archive.pth").read_bytes())
    entry = content.index(b"PK\x01\x02")  # the first entry of the central directory: data.pkl
    content[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2  # both of its lengths
    path = tmp_path / "lies.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="longer than the file"):
        read(path)
    assert zipfile.is_zipfile(io.BytesIO(content))
