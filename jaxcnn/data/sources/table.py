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

    The images are copied to the folder of prepared datasets once. The copy is repeated when the table or a file
    changes, and replaces the older copy of the same files. The order of the rows has no effect.

    Args:
      table: a pandas or polars table, a dictionary of lists, or a list of paths.
      labels: class of each path of a list.
      image_column: column of paths. Default: the first of path, image, file, filename and filepath.
      label_column: column of labels. Default: the first of label, class and target. Labels are texts or integers.
      split_column: column of splits, which are train, validation (val) and test. Default: split, if there is one. If no
        row is of the split test, the validation images are the test set.
      root: folder that paths are relative to. Default: the working directory.
      test: without a column of splits, fraction of the images of each class in the test split, at least one image of
        two. The choice depends on the paths and the seed.
      validation: fraction of the images of each class in the validation split; of the training images, where there is a
        column of splits. Default: no validation split, except that of the table.
      seed: seed of the choice of test and validation images.
      class_names: names of the classes, in the order of the labels. Integers are positions in it. Default: the
        distinct labels, sorted; numbers as numbers.
      data_dir: folder of prepared datasets. Default: `$TFDS_DATA_DIR`, or the default of TFDS.
      skip_damaged: whether to leave out damaged images, instead of raising.

    Returns:
      A dataset with the name "table". Its `notes` name images that are in two splits or classes, and classes without
      test images.

    Raises:
      UsageError: if the table is not one of these types, or has no rows or columns of different lengths; a column does
        not exist (the error suggests the closest); files are missing or damaged (the error names all of them); a path,
        a label or a split is missing or has an unsupported type or value; a split is empty; a class has no training
        images; there are fewer than two classes; `root` is not a folder; a fraction or the seed is out of range; or
        `validation` is given where the table has a validation split.
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
    """Return the columns of a table that are used.

    Raises:
      UsageError: if the table is of an unsupported type, a column does not exist, or columns have different lengths.
    """
    if isinstance(table, str | PathLike):
        raise UsageError(
            f"the table is a path: {shortened(table)}. Read the table, or open it by open_dataset('csv:FILE')."
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
            raise UsageError("labels are given, but the table has columns. Name the column as label_column.")
        chosen = choose_columns(names, image, label, split)
        columns = [None if name is None else _values(table[names[name]], f"column {name!r}") for name in chosen]
    images, classes, splits = columns
    assert images is not None
    assert classes is not None
    for what, column in (("labels", classes), ("splits", splits)):
        if column is not None and len(column) != len(images):
            raise UsageError(f"{len(images):,} paths have {len(column):,} {what}. Give one of each for every image.")
    return Rows(images, classes, splits, lambda row: f"row {row}")


def _column_names(table: Any) -> dict[str, Any] | None:
    """Return the columns of a table by their names as texts, or None for a list of paths."""
    if isinstance(table, Mapping):
        names = list(table)
    elif hasattr(table, "columns"):
        names = list(table.columns)
    else:
        return None
    found = {str(name): name for name in names}
    if len(found) < len(names):
        raise UsageError(f"the table has columns of the same name: {shortened(names)}. Rename them.")
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
