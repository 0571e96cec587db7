"""Datasets of image files that a table lists."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jaxcnn.data import imagefolder
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets import data_folder, open_copy
from jaxcnn.data.imagefolder.table import Rows, choose_columns, find
from jaxcnn.errors import UsageError, shortened
from jaxcnn.local_path import local_folder

NAME = "table"
"""Name of the dataset of a table in memory."""


def from_table(
    table: Any,
    labels: Sequence[str | int] | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    root: str | PathLike[str] | None = None,
    test: float = 0.2,
    validation: float | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    skip_damaged: bool = False,
) -> Dataset:
    """Return a dataset of the image files in a table.

    The images are copied once to the folder of prepared datasets. When the table or a file changes, a new copy replaces
    the old copy. The order of the rows has no effect.

    Args:
      table: a pandas or polars table, a dictionary of lists, or a list of paths.
      labels: class of each path, if `table` is a list of paths.
      image_column: name of the column of paths. Default: the first of these columns that exists: path, image, file,
        filename, filepath.
      label_column: name of the column of labels, which are strings or integers. Default: the first of these columns
        that exists: label, class, target.
      split_column: name of the column of splits, whose values are train, validation (or val) and test. Default: split,
        if this column exists. If no row has the split test, the validation images are the test set.
      root: folder that paths are relative to. Default: the working directory.
      test: fraction of the images of each class in the test split, if there is no column of splits. A class with two or
        more images has at least one test image. The choice of test images depends on the paths and the seed.
      validation: fraction of the images of each class in the validation split. If there is a column of splits,
        `validation` is a fraction of the training images. Default: there is a validation split only if the column of
        splits defines one.
      seed: random seed of the choice of test and validation images.
      class_names: names of the classes, in the order of the labels. Labels that are integers are positions in this
        list. Default: the distinct labels in sorted order, which is numerical if all labels are numbers.
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
      skip_damaged: whether to skip damaged images. By default, damaged images raise an error.

    Returns:
      A dataset with the name "table". The attribute `notes` of the dataset lists images that are in two splits or
      classes, and classes without test images.

    Raises:
      UsageError: if the table has an unsupported type, no rows, or columns of different lengths, or lacks a column (the
        error suggests the closest name). `UsageError` is also raised if files are missing or damaged (the error names
        all these files), or if a path, a label or a split is missing or invalid. `UsageError` is also raised if a split
        is empty, a class has no training images, or there are fewer than two classes. `UsageError` is also raised if
        `root` is not a folder, a fraction or the seed is invalid, or both the table and `validation` define a
        validation split.
      RunError: if the copy cannot be written, for example because the disk is full.

    Example:
      >>> from jaxcnn.data import from_table
      >>> dataset = from_table({"path": ["a.png", "b.png"], "label": ["cat", "dog"]}, root="pictures")
      Traceback (most recent call last):
      ...
      jaxcnn.errors.UsageError: root does not exist: pictures. Give the folder that paths are relative to.
    """
    division = imagefolder.make_division(test, validation, seed)
    folder = Path.cwd() if root is None else local_folder("root", root)
    if not folder.is_dir():
        raise UsageError(f"root does not exist: {folder}. Give the folder that paths are relative to.")
    rows = _rows(table, labels, image_column, label_column, split_column)
    found = find(rows, folder, division=division, class_names=class_names)
    target = data_folder(data_dir)
    return open_copy(NAME, target, imagefolder.copy(found, target, skip_damaged=skip_damaged))


def _rows(table: Any, labels: Any, image: str | None, label: str | None, split: str | None) -> Rows:
    """Return the image, label and split columns of a table.

    Raises:
      UsageError: if the table is of an unsupported type, a column does not exist, or columns have different lengths.
    """
    if isinstance(table, str | PathLike):
        raise UsageError(
            f"the table is a path: {shortened(table)}. "
            "Pass a table object, such as a DataFrame, or call open_dataset('csv:FILE')."
        )
    names = _column_names(table)
    if names is None:
        given = {"image_column": image, "label_column": label, "split_column": split}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} is {value!r}, but the table is a list of paths. Omit {name}.")
        if labels is None:
            raise UsageError("labels are missing. Give the label of each path, or a table with a column of labels.")
        columns = [_values(table, "the list of paths"), _values(labels, "labels"), None]
    else:
        if labels is not None:
            raise UsageError("labels are given, but the table has columns. Omit labels, and pass label_column.")
        chosen = choose_columns(names, image, label, split)
        columns = [None if name is None else _values(table[names[name]], f"column {name!r}") for name in chosen]
    images, classes, splits = columns
    assert images is not None
    assert classes is not None
    for what, column in (("labels", classes), ("splits", splits)):
        if column is not None and len(column) != len(images):
            raise UsageError(
                f"{len(images):,} paths have {len(column):,} {what}. Give one {what.removesuffix('s')} for each path."
            )
    return Rows(images, classes, splits, lambda row: f"row {row}")


def _column_names(table: Any) -> dict[str, Any] | None:
    """Return a dict from each column name as a string to the original column name, or None for a list of paths."""
    if isinstance(table, Mapping):
        names = list(table)
    elif hasattr(table, "columns"):
        names = list(table.columns)
    else:
        return None
    found = {str(name): name for name in names}
    if len(found) < len(names):
        raise UsageError(f"the table has columns of the same name: {shortened(names)}. Rename one of these columns.")
    return found


def _values(column: Any, what: str) -> list[Any]:
    """Return the values of a column, or of a list, as Python objects.

    Raises:
      UsageError: if the column is not a sequence of values.
    """
    convert = getattr(column, "to_list", None) or getattr(column, "tolist", None)
    try:
        if isinstance(column, str | bytes | Mapping):
            raise TypeError
        values = list(column) if convert is None else convert()
        if not isinstance(values, list):
            raise TypeError
    except TypeError:
        raise UsageError(
            f"{what} is not a list of values, but of type {type(column).__name__}. Give a list, or a column of a "
            "pandas or polars table."
        ) from None
    return [value.item() if hasattr(value, "item") else value for value in values]
