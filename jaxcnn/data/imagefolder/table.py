"""Find the images of a table: their paths, classes and splits, without reading the image files."""

import collections
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.data.imagefolder.csv_file import read_csv
from jaxcnn.data.imagefolder.division import check_classes
from jaxcnn.data.imagefolder.files import Division, File, Found, shown
from jaxcnn.data.imagefolder.labels import check_complete, name_classes
from jaxcnn.data.imagefolder.scan import is_in_kernel_folder
from jaxcnn.errors import UsageError, closest, shortened
from jaxcnn.local_path import is_possible

IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath")
LABEL_COLUMNS = ("label", "class", "target")
SPLIT_COLUMNS = ("split",)
"""Column names that are recognized as paths, labels and splits, in order of preference."""

SPLIT_VALUES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

VALIDATION_IS_TEST = "the validation images are used as the test set, because no row has the split test"


class Rows(NamedTuple):
    """The image, label and split columns of a table.

    Attributes:
      images: path of each image.
      labels: class of each image: a class name, or a position in the class names.
      splits: split of each image, or None if the table has no split column.
      place: function from the index of a row to a description of its place, such as "line 3", for error messages.
      title: name of the table, for error messages.
    """

    images: Sequence[Any]
    labels: Sequence[Any]
    splits: Sequence[Any] | None
    place: Callable[[int], str]
    title: str = "the table"


def find_in_csv(path: str) -> Found:
    """Find the images of a CSV file; see `read_csv` and `find`.

    Paths are relative to the folder of the file. The columns are found by the names in `IMAGE_COLUMNS`, `LABEL_COLUMNS`
    and `SPLIT_COLUMNS`.

    Raises:
      UsageError: if `read_csv`, `choose_columns` or `find` raises `UsageError`.
    """
    table = read_csv(path)
    title = shown(table.path)
    image, label, split = choose_columns(table.columns, title=title)
    splits = None if split is None else table.columns[split]
    rows = Rows(table.columns[image], table.columns[label], splits, lambda row: f"line {table.lines[row]}", title)
    return find(rows, table.path.parent, source=table.path)


def choose_columns(
    names: Iterable[str],
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    title: str = "the table",
) -> tuple[str, str, str | None]:
    """Return the names of the image, label and split columns. The split column is None if the table has no split
    column.

    Args:
      names: all column names.
      image, label, split: column names that the user gave, or None to find the columns by common names.
      title: name of the table, for error messages.

    Raises:
      UsageError: if a column does not exist. The error lists the columns, and suggests the closest name.
    """
    names = list(names)
    chosen: list[str | None] = []
    for role, given, usual in (
        ("image", image, IMAGE_COLUMNS),
        ("label", label, LABEL_COLUMNS),
        ("split", split, SPLIT_COLUMNS),
    ):
        if given in names:
            chosen.append(given)
            continue
        folded = {name.strip().casefold(): name for name in reversed(names)}
        found = None if given is not None else next((folded[name] for name in usual if name in folded), None)
        if found is None and (given is not None or role != "split"):
            near = _closest_of(usual if given is None else (given,), names)
            what = f"column of {role}s ({', '.join(usual)})" if given is None else f"column {given!r}"
            hint = f" Did you mean {near!r}?" if near else ""
            listed = shortened(", ".join(map(repr, names)))
            raise UsageError(
                f"{title} has no {what}. The columns are {listed}.{hint} Rename a column, or pass {role}_column."
            )
        chosen.append(found)
    image, label, split = chosen
    assert image is not None
    assert label is not None
    return image, label, split


def _closest_of(usual: Iterable[str], names: Sequence[str]) -> str | None:
    return next((near for name in usual if (near := closest(name, names))), None)


def find(
    rows: Rows,
    root: Path,
    *,
    source: Path | None = None,
    division: Division = Division(),  # noqa: B008  # immutable
    class_names: Sequence[str] | None = None,
) -> Found:
    """Find the images of a table.

    Args:
      rows: the columns of the table.
      root: folder that paths are relative to.
      source: path of the table file. Default: None, for a table in memory.
      division: how to divide the images if the table has no split column.
      class_names: names of the classes, in the order of the labels. Default: the distinct labels in sorted order, which
        is numerical if all labels are numbers.

    Raises:
      UsageError: if there are no rows, files are missing (the error names all missing files), or a value is missing or
        has an unsupported type. `UsageError` is also raised if a label is not a class, a split is unknown or empty, a
        class has no training images, or there are fewer than two classes. `UsageError` is also raised if both the table
        and `division` define a validation split.
    """
    if not len(rows.images):
        raise UsageError(f"{rows.title} has no rows. Add a row for each image.")
    labels, classes = name_classes(rows.labels, class_names, rows.title, rows.place)
    splits, notes = _splits(rows, division)
    paths = _paths(rows)
    states = _states(rows.title, root, paths)
    seen = collections.Counter[tuple[str, str, str | None]]()
    files = []
    for path, label, split in zip(paths, labels, splits, strict=True):
        full, relative, state = states[path]
        occurrence = seen[full, label, split]
        seen[full, label, split] += 1
        files.append(File(full, relative, relative, label, split, state.st_size, state.st_mtime_ns, occurrence))
    # Sort the files, so that the order of the rows has no effect.
    files.sort(key=lambda file: (file.relative, file.label, file.split or "", file.occurrence))
    found = Found(source, tuple(files), {}, division, classes, notes)
    check_classes(found, found.files)
    return found


def _splits(rows: Rows, division: Division) -> tuple[Sequence[str | None], tuple[str, ...]]:
    """Return the split of each row, and messages for the user. None means that `division` will choose the split."""
    if rows.splits is None:
        return [None] * len(rows.images), ()
    check_complete(rows.splits, "split", rows.title, rows.place)
    splits = []
    for row, value in enumerate(rows.splits):
        split = SPLIT_VALUES.get(str(value).strip().casefold())
        if split is None:
            raise UsageError(
                f"{rows.title} has an unknown split in {rows.place(row)}: {shortened(value)!r}. Use train, validation "
                "or test."
            )
        splits.append(split)
    present, notes = {*splits}, ()
    if "validation" in present and "test" not in present:
        splits, notes = ["test" if split == "validation" else split for split in splits], (VALIDATION_IS_TEST,)
    for needed in ("train", "test"):
        if needed not in splits:
            raise UsageError(
                f"{rows.title} has no rows of the split {needed}. Add rows of this split, or remove the split column "
                "to divide the images by class."
            )
    if division.validation is not None and "validation" in splits:
        raise UsageError(
            f"validation is {division.validation}, but {rows.title} has rows of the split validation. Omit validation."
        )
    if division.test != Division().test:
        notes += (f"test={division.test} has no effect, since the table has test images",)
    return splits, notes


def _paths(rows: Rows) -> list[str]:
    check_complete(rows.images, "path", rows.title, rows.place)
    paths = []
    for row, value in enumerate(rows.images):
        if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
            raise UsageError(
                f"{rows.title} has a value in {rows.place(row)} that is not a path: {shortened(repr(value))}. Give "
                "paths of image files."
            )
        paths.append(os.fspath(value))
    return paths


def _is_kernel_file(path: str) -> bool:
    # Resolve the whole path only if it is a link, because resolving is slower than all other checks.
    return _is_kernel_folder(os.path.dirname(path)) or (os.path.islink(path) and is_in_kernel_folder(path))


_is_kernel_folder = functools.lru_cache(maxsize=1024)(is_in_kernel_folder)


def _states(title: str, root: Path, paths: Iterable[str]) -> dict[str, tuple[str, str, os.stat_result]]:
    """Return the absolute path, the path relative to `root`, and the `os.stat` result of each file.

    The path of a file outside `root` stays absolute.

    Raises:
      UsageError: if files are missing. The error names all missing files.
    """
    states, missing = {}, {}
    folder = os.path.join(os.path.abspath(root), "")
    for path in dict.fromkeys(paths):
        full = os.path.normpath(os.path.join(folder, path))
        try:
            state = os.stat(full) if is_possible(full) else None
        except OSError as error:
            missing[shown(path)] = "" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f" ({error.strerror})"
            continue
        if state is None:
            missing[shown(shortened(path))] = " (not a path)"
        elif not stat.S_ISREG(state.st_mode) or _is_kernel_file(full):
            missing[shown(path)] = " (not a file)"
        else:
            states[path] = full, full.removeprefix(folder), state
    if missing:
        files = "1 missing file" if len(missing) == 1 else f"{len(missing):,} missing files"
        listed = ", ".join(f"{path}{reason}" for path, reason in missing.items())
        raise UsageError(
            f"{title} has {files} in {shown(folder)}: {listed}. Correct the paths, which are relative to this folder, "
            "or remove the rows with missing files."
        )
    return states
