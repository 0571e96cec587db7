"""Small data sets in the formats of the authors' files, and prepared once for all tests."""

import gzip
import io
import pickle
import struct
import tarfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxcnn.data import imagefolder, open_dataset
from jaxcnn.data.preparation.prepare import prepare

FEW = {"train": 30, "test": 10}


def write_idx_files(folder: Path, few: dict[str, int] | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The four files of MNIST and its like; returns images `[N, 28, 28]` and labels of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    random, splits = np.random.default_rng(0), {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        count = (few or FEW)[split]
        images = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
        splits[split] = (images, labels)
    return splits


def write_cifar(folder: Path, form: str, fine: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CIFAR-10, or CIFAR-100 if `fine`, as "binary", "python" or "archive"; returns images `[N, 32, 32, 3]`, labels."""
    folder.mkdir(parents=True, exist_ok=True)
    random, splits, files = np.random.default_rng(0), {}, {}
    names = (
        {"train": ["train"], "test": ["test"]}
        if fine
        else {
            "train": [f"data_batch_{i}" for i in range(1, 6)],
            "test": ["test_batch"],
        }
    )
    for split, parts in names.items():
        images, labels = [], []
        for name in parts:
            planes = random.integers(256, size=(6, 3072), dtype=np.uint8)
            label = random.integers(100 if fine else 10, size=6, dtype=np.uint8)
            coarse = label // 5
            if form == "python":
                keys = (
                    {b"fine_labels": label.tolist(), b"coarse_labels": coarse.tolist()}
                    if fine
                    else {b"labels": label.tolist()}
                )
                files[name] = pickle.dumps({b"data": planes, **keys}, protocol=2)
            else:
                columns = [coarse[:, None], label[:, None], planes] if fine else [label[:, None], planes]
                files[f"{name}.bin"] = np.concatenate(columns, axis=1).tobytes()
            images.append(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(label)
        splits[split] = (np.concatenate(images), np.concatenate(labels))
    if form == "archive":
        with tarfile.open(folder / ("cifar-100-binary.tar.gz" if fine else "cifar-10-binary.tar.gz"), "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"cifar/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return splits


def write_svhn(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """SVHN's two MATLAB files; returns images `[N, 32, 32, 3]` and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    random, splits = np.random.default_rng(0), {}
    for split, count in FEW.items():
        images = random.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        values = {"X": np.moveaxis(images, 0, -1), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        scipy.io.savemat(folder / f"{split}_32x32.mat", values, do_compression=True)
        splits[split] = (images, labels)
    return splits


def write_image_folder(folder: Path, splits: dict[str, int], size: tuple[int, int] = (40, 50)) -> None:
    """`folder/SPLIT/CLASS/N.jpg`, of two classes; without a split's name for ""; each image of a size of its own."""
    random = np.random.default_rng(0)
    for split, count in splits.items():
        for number, label in enumerate(("ant", "bee")):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                shape = (size[0] + 3 * index, size[1] + 2 * number, 3)
                smooth = Image.fromarray(random.integers(256, size=(4, 4, 3), dtype=np.uint8))
                image = smooth.resize(shape[1::-1], Image.Resampling.BICUBIC)
                image.save(folder / split / label / f"{index}.jpg", quality=95)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    """Write a small random RGB image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)).save(path)


def write_classes(folder: Path, classes: Sequence[str] = ("ant", "bee"), count: int = 3) -> None:
    """Write `count` images of each class, `folder/CLASS/N.png`."""
    for label in classes:
        for index in range(count):
            write_image(folder / label / f"{index}.png", index)


def prepare_image_folder(folder: Path, **options: Any) -> imagefolder.Prepared:
    """Prepare the image folder `folder/pics` in `folder/data`."""
    return imagefolder.prepare(str(folder / "pics"), folder / "data", **options)


def count_images(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the number of training and test images of each class of a prepared image folder."""
    classes = imagefolder.inventory(directory)["classes"]
    return {label: (splits["train"]["files"], splits["test"]["files"]) for label, splits in classes.items()}


@pytest.fixture(scope="session")
def images():
    """Functions that write and prepare image folders, by name."""
    return types.SimpleNamespace(
        write_image=write_image, write_classes=write_classes, prepare=prepare_image_folder, count_images=count_images
    )


@pytest.fixture(scope="session")
def originals():
    """The functions above, by name."""
    return types.SimpleNamespace(
        few=FEW,
        write_idx_files=write_idx_files,
        write_cifar=write_cifar,
        write_svhn=write_svhn,
        write_image_folder=write_image_folder,
    )


@pytest.fixture(scope="session")
def grey(tmp_path_factory):
    """A folder with a prepared `mnist` of 97 training and 23 test images."""
    folder = tmp_path_factory.mktemp("grey")
    write_idx_files(folder / "source", {"train": 97, "test": 23})
    prepare("mnist", folder / "source", folder / "data", verify=False)
    return folder / "data"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A data set of JPEG images of different sizes: 24 training and 10 test images."""
    folder = tmp_path_factory.mktemp("photographs")
    write_image_folder(folder / "images", {"train": 12, "val": 5})
    return open_dataset(f"imagefolder:{folder / 'images'}", folder / "data")
