"""`npz:FILE`: a NumPy file of training and test arrays, as those that Keras and MedMNIST distribute."""

import zipfile
from typing import Any

import numpy as np

from jaxcnn.data.dataset import first_line
from jaxcnn.data.sources.arrays import ArrayDataset, from_arrays
from jaxcnn.errors import UsageError, printable
from jaxcnn.local_path import local_path

PREFIX = "npz:"

KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
}
"""Names of the images and labels of each split, in Keras's and in MedMNIST's notation."""

FREE_BYTES, MAX_RATIO = 2**30, 200
"""An array of more bytes may not be this many times larger than it is compressed. Zip's limit is about 1000."""


def open_npz(path: str) -> ArrayDataset:
    """Return the dataset in a NumPy file, which is read into memory.

    Args:
      path: file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, and optionally `x_val`, `y_val`; or
        `train_images`, `train_labels`, `test_images`, `test_labels`, and optionally `val_images`, `val_labels`. For
        their shapes see `from_arrays`. `class_names`, strings `[classes]`, is optional.

    Raises:
      UsageError: if the file cannot be read, lacks an array, has arrays of Python objects, or unpacks to far more than
        it holds; or see `from_arrays`.
    """
    file = local_path("npz file", path).absolute()
    shown = printable(file)
    try:
        # Opened here, since NumPy leaves the file of a damaged archive open.
        with file.open("rb") as stream:
            opened: Any = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise UsageError(f"{shown} has a single array. Save training and test arrays with np.savez.")
            assert opened.zip is not None  # it is open
            _check_unpacked_size(opened.zip, shown)
            splits = {split: _read_split(opened, split, shown) for split in KEYS}
            names = opened["class_names"].tolist() if "class_names" in opened.files else None
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"npz file does not exist: {shown}. Give the path of a file that np.savez wrote.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        if "pickle" in str(error).lower():
            why = "it has Python objects, which could run code when they are read"
            raise UsageError(f"{shown} is refused: {why}. Save arrays of numbers or strings.") from None
        raise UsageError(f"{shown} is not an intact npz file: {first_line(error)}. Save it with np.savez.") from None
    return from_arrays(splits["train"], splits["test"], splits["validation"], class_names=names, name=f"{PREFIX}{file}")


def _check_unpacked_size(archive: zipfile.ZipFile, shown: str) -> None:
    """Raise `UsageError` if an archive unpacks to far more than its file holds, as no images do."""
    for entry in archive.infolist():
        if entry.file_size > max(FREE_BYTES, MAX_RATIO * entry.compress_size):
            sizes = f"{entry.compress_size:,} bytes that unpack to {entry.file_size:,}"
            raise UsageError(f"{shown} is refused: {printable(entry.filename)} has {sizes}. Save it with np.savez.")


def _read_split(opened: Any, split: str, shown: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the images and labels of a split; None if the file has no validation split.

    Raises:
      UsageError: if an array is missing.
    """
    choices = KEYS[split]
    images, labels = next((pair for pair in choices if pair[0] in opened.files), choices[0])
    if split == "validation" and images not in opened.files:
        return None
    for key in (images, labels):
        if key not in opened.files:
            has = ", ".join(printable(name) for name in opened.files) or "no array"
            expected = " or ".join(f"{pair[0]} and {pair[1]}" for pair in choices)
            raise UsageError(f"{shown} has no array {key!r}. It has {has}. Name the {split} arrays {expected}.")
    return opened[images], opened[labels]
