"""Open `npz:FILE`: a NumPy file of training and test arrays, in the format of Keras or MedMNIST."""

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
"""Names of the image and label arrays of each split, in the format of Keras and in the format of MedMNIST."""

FREE_BYTES, MAX_RATIO = 2**30, 200
"""Limits against zip bombs, for each array in a file.

An array of more than `FREE_BYTES` bytes must not be larger than `MAX_RATIO` times its compressed size. The zip format
allows ratios of about 1000.
"""


def open_npz(path: str) -> ArrayDataset:
    """Read the dataset in a NumPy file into memory.

    Args:
      path: path of a file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, and optionally `x_val`, `y_val`.
        The names `train_images`, `train_labels`, `test_images`, `test_labels`, `val_images`, `val_labels` are accepted
        too. `from_arrays` describes the shapes of the arrays. The array `class_names`, strings `[classes]`, is
        optional.

    Raises:
      UsageError: if the file cannot be read, lacks an array, has arrays of Python objects, or is suspiciously large
        when it is unpacked. `UsageError` is also raised if `from_arrays` refuses the arrays.
    """
    file = local_path("npz file", path).absolute()
    shown = printable(file)
    try:
        # Open the file here, because NumPy does not close the file of a damaged archive.
        with file.open("rb") as stream:
            opened: Any = np.load(stream, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise UsageError(
                    f"{shown} has a single array without a name. "
                    "Save training and test arrays in one file with np.savez."
                )
            assert opened.zip is not None  # the file is open
            _check_unpacked_size(opened.zip, shown)
            splits = {split: _read_split(opened, split, shown) for split in KEYS}
            names = opened["class_names"].tolist() if "class_names" in opened.files else None
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"npz file does not exist: {shown}. Give the path of a file that np.savez wrote.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        if "pickle" in str(error).lower():
            why = "the file contains Python objects, which could run code when they are read"
            raise UsageError(f"{shown} is refused: {why}. Save arrays of numbers or strings.") from None
        raise UsageError(
            f"{shown} is not an intact npz file: {first_line(error)}. Save the arrays with np.savez."
        ) from None
    return from_arrays(splits["train"], splits["test"], splits["validation"], class_names=names, name=f"{PREFIX}{file}")


def _check_unpacked_size(archive: zipfile.ZipFile, shown: str) -> None:
    """Raise `UsageError` if an array of an archive is compressed more than images can be."""
    for entry in archive.infolist():
        if entry.file_size > max(FREE_BYTES, MAX_RATIO * entry.compress_size):
            sizes = f"{entry.compress_size:,} bytes that unpack to {entry.file_size:,}"
            raise UsageError(
                f"{shown} is refused: {printable(entry.filename)} has {sizes}. Save the arrays with np.savez."
            )


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
            raise UsageError(
                f"{shown} has no array {key!r}. The file contains {has}. Name the {split} arrays {expected}."
            )
    return opened[images], opened[labels]
