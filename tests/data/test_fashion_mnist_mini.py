"""The bundled data set, and the script that makes it."""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.data.datasets import BUNDLED_DIR
from jaxcnn.data.preparation import fashion_mnist_mini
from jaxcnn.data.preparation.fashion_mnist_mini import CLASS_NAMES, NAME, VERSION, draw, prepare, read_idx
from jaxcnn.errors import UsageError

# SHA-256 of a split's pixels [N, 28, 28, 1] followed by its labels [N], as bytes, in the order of the file.
BUNDLED_SHA256 = {
    "train": "b82130bb33dff1ff31649d968e993517f93593a18759c14b105bab2e1b9b5b3c",
    "test": "347792410702e6c7d0451e524cec893ca7d8aee55bfa472ecca4ae03502b20aa",
}
FEW = {"train": 4, "test": 2}


def read(data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, H, W, C]` and labels `[N]` by the plain TFDS way of reading."""
    import tensorflow_datasets as tfds

    source = tfds.data_source(NAME, split=split, data_dir=data_dir)
    examples = source.__getitems__(range(len(source)))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples], np.uint8)


def write_idx(path: Path, array: np.ndarray, count: int | None = None) -> None:
    """An idx file, packed if it is called `.gz`; `count` lies about the number of examples."""
    shape = (len(array) if count is None else count, *array.shape[1:])
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The four files with few images, all different, of each class: 7 in "train" and 3 in "test"."""
    folder = tmp_path / "source"
    folder.mkdir()
    random = np.random.default_rng(0)
    for prefix, each in (("train", 7), ("t10k", 3)):
        labels = random.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
        images = random.integers(256, size=(len(labels), 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
    return folder


@pytest.mark.parametrize(("split", "each"), [("train", 1000), ("test", 200)])
def test_bundled_images(split: str, each: int) -> None:
    images, labels = read(BUNDLED_DIR, split)
    assert images.shape == (10 * each, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [each] * 10
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() == BUNDLED_SHA256[split]


def test_bundled_images_are_all_different() -> None:
    images = [image.tobytes() for split in FEW for image in read(BUNDLED_DIR, split)[0]]
    assert len(set(images)) == 12_000


def test_bundled_description() -> None:
    import tensorflow_datasets as tfds

    info = tfds.builder(NAME, data_dir=BUNDLED_DIR).info
    assert info.features["label"].names == list(CLASS_NAMES)
    assert info.supervised_keys == ("image", "label")
    assert str(info.version) == VERSION
    assert {name: split.num_shards for name, split in info.splits.items()} == {"train": 1, "test": 1}
    assert "Copyright (c) 2017 Zalando SE" in (BUNDLED_DIR / NAME / "LICENSE").read_text()


def test_reading_needs_neither_tensorflow_nor_the_script() -> None:
    code = f"""
import sys
import jaxcnn.data
import jaxcnn.data.preparation.fashion_mnist_mini
assert "tensorflow_datasets" not in sys.modules, "imported before it is needed"
del sys.modules["jaxcnn.data.preparation.fashion_mnist_mini"]
import tensorflow_datasets as tfds
source = tfds.data_source({NAME!r}, split="test", data_dir={str(BUNDLED_DIR)!r})
assert source[0]["image"].shape == (28, 28, 1)
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
assert "jaxcnn.data.preparation.fashion_mnist_mini" not in sys.modules
"""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_prepare_draws_from_the_source(source: Path, tmp_path: Path) -> None:
    target = prepare(source, tmp_path / "out", per_class=FEW, verify=False)
    assert target == tmp_path / "out" / NAME / VERSION
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NAME]
    assert sorted(path.name for path in target.parent.iterdir()) == [VERSION, "LICENSE", "README.md"]
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = read(tmp_path / "out", split)
        assert np.bincount(labels).tolist() == [FEW[split]] * 10
        originals = zip(
            read_idx(source / f"{prefix}-images-idx3-ubyte.gz"),
            read_idx(source / f"{prefix}-labels-idx1-ubyte.gz"),
            strict=True,
        )
        label_of = {image.tobytes(): label for image, label in originals}
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()
        assert len({image.tobytes() for image in images}) == len(images)


def test_prepare_is_reproducible_and_records_no_path(source: Path, tmp_path: Path) -> None:
    first = files(prepare(source, tmp_path / "a", per_class=FEW, verify=False))
    again = files(prepare(source, tmp_path / "b", per_class=FEW, verify=False))
    assert first == again
    assert not any(bytes(tmp_path) in content for content in first.values())


@pytest.mark.parametrize("seed", ["1", *(pytest.param(seed, marks=pytest.mark.slow) for seed in "02")])
def test_files_do_not_depend_on_the_process_or_its_hash_seed(source: Path, tmp_path: Path, seed: str) -> None:
    here = files(prepare(source, tmp_path / "here", per_class=FEW, verify=False))
    code = f"""
from jaxcnn.data.preparation.fashion_mnist_mini import prepare
prepare({str(source)!r}, {str(tmp_path / seed)!r}, per_class={FEW!r}, verify=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert files(tmp_path / seed / NAME / VERSION) == here


def test_prepare_prints_nothing(source: Path, tmp_path: Path, capfd) -> None:
    prepare(source, tmp_path / "out", per_class=FEW, verify=False)
    assert capfd.readouterr() == ("", "")


def test_unpacked_files_are_read_too(source: Path, tmp_path: Path) -> None:
    packed = files(prepare(source, tmp_path / "packed", per_class=FEW, verify=False))
    for path in list(source.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert files(prepare(source, tmp_path / "unpacked", per_class=FEW, verify=False)) == packed


def test_draw() -> None:
    labels = np.tile(np.arange(10, dtype=np.uint8), 5)
    indices = draw(labels, 3)
    assert np.bincount(labels[indices]).tolist() == [3] * 10
    assert np.all(np.diff(indices) > 0)
    assert np.array_equal(indices, draw(labels, 3))
    assert not np.array_equal(indices, draw(labels, 3, seed=1))


def test_read_idx(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("a.gz", "a"):
        write_idx(tmp_path / name, array)
        assert np.array_equal(read_idx(tmp_path / name), array)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _wrong_magic(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x03" + bytes(100)))


def _short_header(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x03\x00\x00"))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _wrong_count(path: Path) -> None:
    write_idx(path, read_idx(path), count=len(read_idx(path)) + 1)


def _fewer(path: Path) -> None:
    write_idx(path, read_idx(path)[:-1])


def _other_size(path: Path) -> None:
    write_idx(path, read_idx(path)[:, :27])


def _labels_for_images(path: Path) -> None:
    shutil.copy(path.with_name("train-labels-idx1-ubyte.gz"), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged"),
        (_flip, "is damaged"),
        (_empty, "is not an idx file"),
        (_wrong_magic, "is not an idx file of unsigned bytes: the file begins with '00 00 0d 03'"),
        (_short_header, "ends within its header"),
        (_wrong_count, "bytes follow its header, expected"),
        (_fewer, r"has the wrong shape: \(70,\)\. Use one label for each of the 69 images"),
        (_other_size, r"has the wrong shape: \(70, 27, 28\)"),
        (_labels_for_images, r"has the wrong shape: \(70,\)"),
        (Path.unlink, "file does not exist"),
    ],
)
def test_damaged_files_are_refused(source: Path, tmp_path: Path, damage, message: str) -> None:
    damage(source / "train-images-idx3-ubyte.gz")
    with pytest.raises(UsageError, match=message) as error:
        prepare(source, tmp_path / "out", per_class=FEW, verify=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_labels_out_of_range_are_refused(source: Path, tmp_path: Path) -> None:
    path = source / "t10k-labels-idx1-ubyte.gz"
    write_idx(path, np.where(read_idx(path) == 3, 10, read_idx(path)).astype(np.uint8))
    with pytest.raises(UsageError, match=r"has a label out of range: 10\. Use labels 0 to 9"):
        prepare(source, tmp_path / "out", per_class=FEW, verify=False)


def test_drawing_more_examples_than_there_are_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"class 'T-shirt/top' has too few examples: 3\. "
        r"Draw at most 3 examples of each class",
    ):
        prepare(source, tmp_path / "out", per_class={"train": 7, "test": 4}, verify=False)


def test_an_existing_dataset_is_replaced_only_by_force(source: Path, tmp_path: Path) -> None:
    target = prepare(source, tmp_path / "out", per_class=FEW, verify=False)
    before = files(tmp_path / "out")
    with pytest.raises(UsageError, match=r"already exists: .*\. Replace the dataset with --force"):
        prepare(source, tmp_path / "out", per_class={"train": 5, "test": 1}, verify=False)
    assert files(tmp_path / "out") == before
    prepare(source, tmp_path / "out", per_class={"train": 5, "test": 1}, verify=False, force=True)
    assert len(read(tmp_path / "out", "train")[1]) == 50
    assert files(tmp_path / "out").keys() == before.keys()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [target.parent.name]


@pytest.mark.parametrize("moment", ["while it is written", "before it is moved"])
def test_a_failure_keeps_the_old_files(source: Path, tmp_path: Path, monkeypatch, moment: str) -> None:
    prepare(source, tmp_path / "out", per_class=FEW, verify=False)
    before = files(tmp_path / "out")

    def fail(splits: object, data_dir: Path) -> Path:
        (data_dir / "half").write_text("half")
        if moment == "while it is written":
            raise OSError("No space left on device")
        return data_dir / "vanished"

    monkeypatch.setattr(fashion_mnist_mini, "_write", fail)
    with pytest.raises(OSError, match="No "):
        prepare(source, tmp_path / "out", per_class=FEW, verify=False, force=True)
    assert files(tmp_path / "out") == before


def test_command_refuses_other_files(source: Path, tmp_path: Path, capsys) -> None:
    assert fashion_mnist_mini.main(["--source", str(source), "--out", str(tmp_path / "out")]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "train-images-idx3-ubyte.gz is not the original file" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command_names_what_is_missing(tmp_path: Path, capsys) -> None:
    assert fashion_mnist_mini.main(["--source", str(tmp_path / "no"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"file does not exist: {tmp_path / 'no' / 'train-images-idx3-ubyte.gz'}" in error
    assert error.count("\n") == 1


def test_command(source: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    contents = {path.stem: gzip.decompress(path.read_bytes()) for path in source.iterdir()}
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(fashion_mnist_mini, "SHA256", sums)
    monkeypatch.setattr(fashion_mnist_mini, "PER_CLASS", FEW)
    assert fashion_mnist_mini.main(["--source", str(source), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"60 images in {tmp_path / 'out' / NAME / VERSION}\n"
    assert len(read(tmp_path / "out", "test")[1]) == 20
