"""List and open datasets.

Prepared datasets, including the dataset inside the package, are TFDS datasets in ArrayRecord files. Prepared datasets
are read through `tfds.core.DatasetBuilder.as_data_source`, which does not need TensorFlow.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn._scoped import quiet_logger
from jaxcnn.data import imagefolder
from jaxcnn.data.dataset import Dataset, first_line
from jaxcnn.data.sources import npz
from jaxcnn.data.tfds_dataset import TfdsDataset, count_examples
from jaxcnn.errors import UsageError, printable, shortened, unknown_name
from jaxcnn.local_path import is_possible, local_folder

BUNDLED_DIR = Path(__file__).parent / "bundled"
"""Folder of the datasets inside the package."""


KNOWN = (
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "fashion_mnist_mini",
    "imagenet2012",
    "kmnist",
    "mnist",
    "svhn_cropped",
)
"""Dataset names that `list_datasets` always returns.

Every other TFDS dataset of labeled images can be opened too, after it is prepared.
"""


PATH_PREFIXES = (imagefolder.PREFIX, imagefolder.CSV_PREFIX, npz.PREFIX)
"""Prefixes of dataset names that contain a path, such as "csv:" in "csv:FILE"."""


def split_name(name: str) -> tuple[str, str]:
    """Split a dataset name such as "npz:FILE" into its prefix and its path. Other names have an empty prefix.

    >>> split_name("npz:digits.npz"), split_name("mnist")
    (('npz:', 'digits.npz'), ('', 'mnist'))
    """
    prefix = next((prefix for prefix in PATH_PREFIXES if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return the folder of prepared datasets: `data_dir`, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.

    Raises:
      UsageError: if the path cannot be a folder on this machine, such as a URL, or the home directory is unknown.
    """
    if data_dir:
        return local_folder("data_dir", data_dir)
    if variable := os.environ.get("TFDS_DATA_DIR"):
        return local_folder("$TFDS_DATA_DIR", variable)
    return local_folder("data_dir", "~/tensorflow_datasets")


def is_bundled(name: str) -> bool:
    """Return whether the package contains the dataset."""
    return name.isidentifier() and is_possible(name) and (BUNDLED_DIR / name).is_dir()


# Datasets whose split "test" has no labels. Their split "validation" is used as the test set.
VALIDATION_AS_TEST = ("imagenet2012", "places365_small")


def list_datasets(data_dir: str | Path | None = None) -> list[str]:
    """Return the names of the known datasets and of all datasets prepared in `data_dir`, sorted.

    >>> {"cifar10", "fashion_mnist_mini", "mnist"} <= {*list_datasets()}
    True
    """
    root = data_folder(data_dir)
    prepared = {path.parent.parent.name for path in root.glob("*/*/dataset_info.json")}
    return sorted({*KNOWN, *prepared})


@quiet_logger("absl", logging.ERROR)  # TFDS logs every file, and a hint to install OpenCV
def open_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    skip_damaged: bool = False,
    train_split: str | None = None,
    test_split: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Open a dataset: a prepared TFDS dataset, a folder or a table of images, or a NumPy file.

    Args:
      name: name of the dataset:

        - TFDS name, with the configuration if the dataset has several configurations: "fashion_mnist",
          "emnist/letters".
        - "imagefolder:PATH": a folder with one folder of images for each class.
        - "csv:FILE": a table of paths and labels (see `from_table`). The paths are relative to the folder of the file.
        - "npz:FILE": a NumPy file of arrays (see `jaxcnn.data.sources.npz`).
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      skip_damaged: whether to skip damaged files of a folder or a table. By default, a damaged file raises an error.
      train_split: training split in TFDS notation, such as "train[:90%]". Default: "train", or "train[:80%]" if the
        dataset has neither a test nor a validation split.
      test_split: test split in TFDS notation, such as "train[90%:]". Default: "test", or else "validation", or else
        "train[80%:]".
      progress: function that reports the progress of preparing a folder or a table. The arguments of the function are
        "files", the number of files read, and the total number of files.

    Raises:
      UsageError: if the name is unknown, or the dataset is not prepared, has no labeled images, or lacks a split.
    """
    if name.startswith(npz.PREFIX):
        if train_split is not None or test_split is not None:
            raise UsageError(f"--train-split and --test-split do not apply to {name}. Omit both flags.")
        return npz.open_npz(name.removeprefix(npz.PREFIX))
    root = BUNDLED_DIR if is_bundled(name) else data_folder(data_dir)
    if imagefolder.is_name(name):
        prepared = imagefolder.prepare_named(name, root, skip_damaged=skip_damaged, progress=progress)
        return open_copy(name, root, prepared, train_split, test_split)
    if not is_possible(name):
        raise unknown_name("dataset", name, KNOWN)
    if not name or not any((root / name).glob("*/dataset_info.json")):
        # Check first that the dataset is prepared. TFDS would start a download, or retry it for ten minutes without a
        # network.
        raise _not_prepared(name, root, data_dir)
    return _open(name, root, None, train_split, test_split)


@quiet_logger("absl", logging.ERROR)
def open_copy(
    name: str,
    root: Path,
    prepared: imagefolder.Prepared,
    train_split: str | None = None,
    test_split: str | None = None,
) -> Dataset:
    """Open the copy of a folder or a table of images. The copy may have a validation split.

    Args:
      name: name of the dataset.
      root: folder of prepared datasets, for error messages.
      prepared: the prepared copy to open.
      train_split, test_split: see `open_dataset`.

    Raises:
      UsageError: if the copy is damaged, or lacks a split.
    """
    opened = _open(name, root, prepared.directory, train_split, test_split)
    return replace(opened, notes=(*prepared.notes, *opened.notes))


def _check_features(folders: Iterable[Path]) -> None:
    """Refuse a prepared dataset with feature classes from outside TFDS, because TFDS would import their packages.

    Raises:
      UsageError: if the class of a feature is not part of TFDS.
    """
    for path in (folder / "features.json" for folder in folders):
        named = set[str]()

        def note(pairs: list[tuple[str, Any]], named: set[str] = named) -> None:
            named.update(str(value) for key, value in pairs if key == "pythonClassName")

        try:
            json.loads(path.read_text(), object_pairs_hook=note)
        except (OSError, ValueError, RecursionError):  # TFDS reports the damaged file
            continue
        foreign = sorted(name for name in named if not name.startswith("tensorflow_datasets."))
        if foreign:
            shown = printable(shortened(foreign[0]))
            raise UsageError(
                f"unsupported feature class in {printable(path)}: {shown}. Use the feature classes of TFDS."
            )


def _open(name: str, root: Path, directory: Path | None, train_split: str | None, test_split: str | None) -> Dataset:
    import tensorflow_datasets as tfds

    _check_features((root / name).glob("*") if directory is None else [directory])
    try:
        builder: Any = (
            tfds.builder(name, data_dir=root) if directory is None else tfds.builder_from_directory(directory)
        )
        info: Any = builder.info
        keys = info.supervised_keys
        image, label = (info.features[key] for key in keys)
        class_names = tuple(label.names)
        shape = tuple(image.shape)
        if len(shape) != 3 or shape[-1] is None or image.np_dtype != np.uint8:
            raise ValueError(f"the image feature is {image}")
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        reason = first_line(error)
        raise UsageError(
            f"dataset {name!r} in {root} has no labeled images: {reason}. "
            "Choose a dataset with uint8 images and one class label for each image."
        ) from error

    splits, notes = _choose_splits(name, info, train_split, test_split)
    if directory is not None and "validation" in info.splits and splits["test"] == "test":
        splits["validation"] = "validation"
    return TfdsDataset(
        name=name,
        directory=Path(builder.data_dir),
        image_shape=(shape[0], shape[1], shape[2]),
        class_names=class_names,
        examples={ours: info.splits[theirs].num_examples for ours, theirs in splits.items()},
        notes=notes,
        _builder=builder,
        _splits=splits,
        _keys=(keys[0], keys[1]),
    )


def _choose_splits(
    name: str, info: Any, train_split: str | None, test_split: str | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the TFDS names of the splits "train" and "test", and notes for the user.

    Raises:
      UsageError: if a split does not exist, or is empty.
    """
    notes = ()
    available = list(info.splits)
    has_test = "test" in available and name.split("/")[0] not in VALIDATION_AS_TEST
    test = test_split or ("test" if has_test else "validation" if "validation" in available else None)
    train = train_split or "train"
    if test is None:
        train, test = train_split or "train[:80%]", "train[80%:]"
        notes = (f"dataset {name!r} has no test split; training on {train} and testing on {test} (--test-split)",)
    splits = {"train": train, "test": test}
    for ours, theirs in splits.items():
        count_examples(name, info.splits, ours, theirs)
    return splits, notes


def _not_prepared(name: str, root: Path, data_dir: str | Path | None) -> UsageError:
    import tensorflow_datasets as tfds

    known = list_datasets(data_dir)
    if name not in known and name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        if Path(name).is_dir():
            return UsageError(f"unknown dataset {name!r}; did you mean '{imagefolder.PREFIX}{name}'?")
        if name.lower().endswith((".csv", ".tsv")) and Path(name).is_file():
            return UsageError(f"unknown dataset {name!r}; did you mean '{imagefolder.CSV_PREFIX}{name}'?")
        return unknown_name("dataset", name, known)
    incomplete = any((root / name).glob("*"))
    state = "is only partly prepared" if incomplete else "is not prepared"
    return UsageError(
        f"dataset {name!r} {state} in {root}. Run jaxcnn prepare {name}, or set the folder of prepared datasets "
        "with --data-dir."
    )
