"""Data sets made from their authors' files are what TFDS would have made, whole or not there at all."""

import gzip
import hashlib
import http.server
import pickle
import threading
import time

import numpy as np
import pytest

from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.data.preparation import prepare as preparing
from jaxcnn.data.preparation._original_checksums import SUMS
from jaxcnn.data.preparation.originals import READERS
from jaxcnn.data.preparation.prepare import prepare
from jaxcnn.errors import RunError, UsageError


def read_by_tfds(name, split, data_dir):
    """Images and labels by a plain `tfds.data_source`, in the order of the files' examples (by pixels)."""
    import tensorflow_datasets as tfds

    source = tfds.data_source(name, split=split, data_dir=data_dir)
    return [source[place] for place in range(len(source))]


def same_examples(examples, images, labels):
    """Whether these are the same pairs, in whatever order TFDS has put them."""
    found = sorted((example["image"].tobytes(), int(example["label"])) for example in examples)
    return found == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_idx_files(name, originals, tmp_path):
    splits = originals.write_idx_files(tmp_path / "source")
    prepared = prepare(name, tmp_path / "source", tmp_path / "data", verify=False)
    assert prepared.examples == originals.few
    for split, (images, labels) in splits.items():
        assert same_examples(read_by_tfds(name, split, tmp_path / "data"), images, labels)
    ours, labels = open_dataset(name, tmp_path / "data").read("train")
    assert same_examples([{"image": i, "label": x} for i, x in zip(ours, labels, strict=True)], *splits["train"])
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]  # nothing is left behind


@pytest.mark.parametrize(("name", "form"), [("cifar10", "binary"), ("cifar10", "python"), ("cifar100", "archive")])
def test_cifar(name, form, originals, tmp_path):
    splits = originals.write_cifar(tmp_path / "source", form, fine=name == "cifar100")
    prepare(name, tmp_path / "source", tmp_path / "data", verify=False)
    for split, (images, labels) in splits.items():
        examples = read_by_tfds(name, split, tmp_path / "data")
        assert same_examples(examples, images, labels)
        assert {example["id"].decode() for example in examples} == {f"{split}_{i:05d}" for i in range(len(images))}
        if name == "cifar100":
            assert all(example["coarse_label"] == example["label"] // 5 for example in examples)
    names = open_dataset(name, tmp_path / "data").class_names
    assert names[:2] == (("airplane", "automobile") if name == "cifar10" else ("apple", "aquarium_fish"))


def test_svhn(originals, tmp_path):
    splits = originals.write_svhn(tmp_path / "source")
    prepare("svhn_cropped", tmp_path / "source", tmp_path / "data", verify=False)
    for split, (images, labels) in splits.items():
        assert same_examples(read_by_tfds("svhn_cropped", split, tmp_path / "data"), images, labels)


def test_every_known_dataset_has_published_checksums():
    assert SUMS.keys() == READERS.keys()
    for sums in SUMS.values():
        assert all(len(bytes.fromhex(value)) in (16, 20, 32) for value in sums.values())


def test_files_that_are_not_the_originals_are_refused(originals, tmp_path):
    originals.write_idx_files(tmp_path / "source")
    with pytest.raises(
        UsageError, match=r"not the original file of mnist: its checksum is [0-9a-f]{64}, expected 440fcab.*--no-v"
    ):
        prepare("mnist", tmp_path / "source", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_recompressed_copy_has_the_checksum_of_its_content(originals, tmp_path, monkeypatch):
    originals.write_idx_files(tmp_path / "source")
    contents = {path.stem: gzip.decompress(path.read_bytes()) for path in (tmp_path / "source").iterdir()}
    right = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setitem(SUMS, "mnist", {**right, "train-images-idx3-ubyte.gz": "0" * 64})
    assert prepare("mnist", tmp_path / "source", tmp_path / "data").unverified == ()


def test_files_without_a_published_checksum_are_named(originals, tmp_path, capsys):
    originals.write_cifar(tmp_path / "source", "binary", fine=True)
    command = ["prepare", "cifar100", "--source", str(tmp_path / "source"), "--data-dir", str(tmp_path / "data")]
    assert main(command) == 0
    out, error = capsys.readouterr()
    assert "6 train, 6 test images" in out
    assert "no published checksum for train.bin, test.bin" in " ".join(error.split())
    assert main(command) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


class _Harmful:
    def __reduce__(self):
        return (eval, ("1 + 1",))


DAMAGES = {
    "cifar10 no files": (
        "cifar10",
        lambda source: [path.unlink() for path in source.iterdir()],
        "does not contain the files",
    ),
    "cifar10 short": (
        "cifar10",
        lambda s: (s / "test_batch.bin").write_bytes(b"short"),
        "not a positive multiple of 3073",
    ),
    "cifar10 label": (
        "cifar10",
        lambda s: (s / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072)),
        "have a label out of range: 10. Use values from 0 to 9",
    ),
    "svhn damaged": ("svhn_cropped", lambda s: (s / "test_32x32.mat").write_bytes(b"no"), "is damaged"),
    "svhn missing": ("svhn_cropped", lambda s: (s / "train_32x32.mat").unlink(), "has no train_32x32.mat"),
    "mnist missing": ("mnist", lambda s: (s / "t10k-labels-idx1-ubyte.gz").unlink(), "has no t10k-labels"),
    "mnist damaged": ("mnist", lambda s: (s / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b"), "is damaged"),
    "mnist shapes": ("mnist", lambda s: (s / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\0\0\x08\1\0\0\0\0"), "shapes"),
}


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_originals_are_one_line_and_leave_nothing(name, damage, says, originals, tmp_path):
    source = tmp_path / "source"
    if name == "cifar10":
        originals.write_cifar(source, "binary", fine=False)
    elif name == "mnist":
        originals.write_idx_files(source)
    else:
        originals.write_svhn(source)
    damage(source)
    with pytest.raises(UsageError, match=says) as error:
        prepare(name, source, tmp_path / "data", verify=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_a_pickle_that_calls_something_is_refused(originals, tmp_path):
    originals.write_cifar(tmp_path / "source", "python", fine=False)
    (tmp_path / "source" / "test_batch").write_bytes(pickle.dumps({b"data": _Harmful()}))
    with pytest.raises(UsageError, match=r"test_batch is not a batch of CIFAR: .*pickle refers to builtins\.eval"):
        prepare("cifar10", tmp_path / "source", tmp_path / "data", verify=False)


def test_an_interrupted_preparation_keeps_the_old_files_and_can_be_repeated(originals, tmp_path):
    originals.write_idx_files(tmp_path / "source")
    data = tmp_path / "data"

    def cut_off(split, done, total):
        if split == "test" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", tmp_path / "source", data, verify=False, progress=cut_off)
    assert not list(data.iterdir())
    with pytest.raises(UsageError, match=r"'mnist' is not prepared in .*\. Run jaxcnn prepare mnist, or"):
        open_dataset("mnist", data)
    told = []
    prepare("mnist", tmp_path / "source", data, verify=False, progress=lambda *done: told.append(done))
    assert told[-1] == ("test", 10, 10)
    assert ("train", 30, 30) in told
    before = open_dataset("mnist", data).read("train")[0].copy()
    with pytest.raises(KeyboardInterrupt):
        prepare("mnist", tmp_path / "source", data, verify=False, force=True, progress=cut_off)
    np.testing.assert_array_equal(open_dataset("mnist", data).read("train")[0], before)


def test_a_dataset_that_tfds_prepared_in_part_is_reported(tmp_path):
    (tmp_path / "cifar10" / "3.0.2.incomplete.ABC_1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"only partly prepared in .*\. Run jaxcnn prepare cifar10, or"):
        open_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("prepare mnst", "did you mean 'mnist'?"),
        ("prepare fashion_mnist_mini", "The jaxcnn package contains this dataset"),
        (
            "prepare imagenet2012 --source .",
            "--source does not support imagenet2012. Omit --source, or choose one of the datasets cifar10",
        ),
        ("prepare mnist --source /nowhere", "--source is not a folder: /nowhere"),
        ("prepare stl10", "needs TensorFlow"),
        ("prepare imagefolder:nowhere", "imagefolder:nowhere is not a folder"),
        ("prepare imagefolder:. --force", "--force does not apply to imagefolder:."),
        ("prepare mnist --skip-damaged", "--skip-damaged does not apply to mnist"),
        ("prepare", "Missing from jaxcnn prepare"),
        ("train --dataset stl10 --data-dir /nowhere", "Run jaxcnn prepare stl10"),
        ("datasets show nothing", "unknown dataset"),
        ("datasets show fashion_mnist_mini --augment filp", "did you mean 'flip'"),
        ("datasets show fashion_mnist_mini --columns 0", "--columns is out of range: 0. Use a number from 1 to 100"),
        ("datasets show fashion_mnist_mini --out /nowhere/x.png", "cannot write /nowhere/x.png"),
        ("datasets stats cifar10 --data-dir /nowhere", "not prepared in /nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args.split()) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert says in error
    assert not list(tmp_path.iterdir())


@pytest.fixture
def server(originals, tmp_path, monkeypatch):
    """Files of MNIST on a server of this machine, to which TFDS's addresses lead."""
    import tensorflow_datasets as tfds

    folder = tmp_path / "served"
    originals.write_idx_files(folder)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            requests.append(self.command)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_address[1]}"
    infos = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        sum_ = hashlib.sha256(content).hexdigest()
        infos[f"{address}/{path.name}"] = tfds.download.checksums.UrlInfo(len(content), sum_, path.name)
    monkeypatch.setattr(tfds.builder_cls("mnist"), "url_infos", infos)
    monkeypatch.setitem(SUMS, "mnist", {info.filename: info.checksum for info in infos.values()})
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield requests
    running.shutdown()
    running.server_close()


def test_without_a_source_the_originals_are_downloaded_once(server, originals, tmp_path):
    assert prepare("mnist", data_dir=tmp_path / "data").examples == originals.few
    assert server.count("GET") == 4
    prepare("mnist", data_dir=tmp_path / "data", force=True)
    assert server.count("GET") == 4  # what was downloaded is kept


def test_without_a_network_a_download_fails_within_seconds(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    info = tfds.download.checksums.UrlInfo(1, "0" * 64, "train-images-idx3-ubyte.gz")
    # Port 9 of this machine, where nothing listens.
    monkeypatch.setattr(tfds.builder_cls("mnist"), "url_infos", {"http://127.0.0.1:9/train-images-idx3-ubyte.gz": info})
    started = time.perf_counter()
    with pytest.raises(
        RunError, match=r"127\.0\.0\.1 does not answer within 5 s\. .*: jaxcnn prepare mnist --source DIR"
    ):
        prepare("mnist", data_dir=tmp_path / "data")
    assert time.perf_counter() - started < preparing.REACHABLE_SECONDS + 20
