"""Prepare an image folder or a table: check every file, copy the images to a TFDS dataset, record its contents."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.data.imagefolder import scan, storage
from jaxcnn.data.imagefolder.division import (
    SPLITS,
    assign,
    check_classes,
    find_missing,
    find_overlaps,
    shuffled,
)
from jaxcnn.data.imagefolder.files import Division, File, Found, shown
from jaxcnn.data.imagefolder.notes import count, describe
from jaxcnn.data.imagefolder.reading import Verdict, read_all
from jaxcnn.data.imagefolder.table import find_in_csv
from jaxcnn.errors import UsageError

PREFIX = "imagefolder:"
"""Start of the name of an image folder as a dataset; the path follows."""

CSV_PREFIX = "csv:"
"""Start of the name of a table of images as a dataset; the path of the file follows."""

INVENTORY = "imagefolder.json"
"""File beside the records of a dataset, with the result of `inventory` and all damaged files."""

Progress = Callable[[str, int, int], None]
"""Function that is called with "files", the number of files read, and the total number of files."""


class Prepared(NamedTuple):
    """A prepared image folder or table.

    Attributes:
      directory: folder of the dataset.
      notes: lines for the user about the images that were found, and about the copy.
      is_default: whether the dataset is that of the folder's name: with the default division, and without damaged
        images.
    """

    directory: Path
    notes: tuple[str, ...]
    is_default: bool = True


def is_name(name: str) -> bool:
    """Return whether a dataset's name refers to a folder or a table of images, which `prepare_named` copies."""
    return name.startswith((PREFIX, CSV_PREFIX))


def prepare_named(name: str, root: Path, *, skip_damaged: bool = False, progress: Progress | None = None) -> Prepared:
    """Copy the images of "imagefolder:PATH" or "csv:FILE" to a dataset below `root`, unless that was done before.

    Raises:
      UsageError, RunError: as `copy`; or the path is not a folder or a table of images.
    """
    if name.startswith(PREFIX):
        return prepare(name.removeprefix(PREFIX), root, skip_damaged=skip_damaged, progress=progress)
    found = find_in_csv(name.removeprefix(CSV_PREFIX))
    return copy(found, root, skip_damaged=skip_damaged, progress=progress)


def prepare(
    path: str,
    root: Path,
    *,
    division: Division = Division(),  # noqa: B008  # immutable
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Copy the images in a folder to a dataset below `root`, unless that was done before.

    Args:
      path: folder of images, without the prefix "imagefolder:".
      root: folder of prepared datasets.
      division: how the images are divided where the layout does not say it.
      skip_damaged: whether to leave out damaged images, instead of raising.
      progress: function that reports the progress. It is not called if the copy exists.

    Raises:
      UsageError: as `copy`; or `path` has none of the accepted layouts.
      RunError: as `copy`.
    """
    found = scan.find(_resolve(path), division)
    return copy(found, root, skip_damaged=skip_damaged, progress=progress)


def copy(found: Found, root: Path, *, skip_damaged: bool = False, progress: Progress | None = None) -> Prepared:
    """Copy images to a dataset below `root`, unless that was done before.

    The copy replaces older copies of the same folder or table that no process uses.

    Args:
      found: the images.
      root: folder of prepared datasets.
      skip_damaged: whether to leave out damaged images, instead of raising.
      progress: function that reports the progress. It is not called if the copy exists.

    Raises:
      UsageError: if images are damaged, or `root` cannot be written. The error names all damaged images in one line.
      RunError: if the copy cannot be written, for example because the disk is full.
    """
    name = storage.name_copy(found.identity, found.fingerprint())
    target = root / name / storage.VERSION
    storage.remove_leftovers(root)
    while not storage.use(target):
        with storage.temporary(root, name) as work:
            _write(found, work / name / storage.VERSION, name, skip_damaged, progress)
            storage.move(work, target)
    stored = _read_inventory(target)
    _require_intact(found, stored["damaged"], skip_damaged)
    storage.remove_older(root, found.identity, keep=name)
    is_default = not stored["damaged"] and (not found.is_divided or found.division == Division())
    return Prepared(target, describe(found, stored, target), is_default)


def is_copy(directory: Path) -> bool:
    """Return whether the dataset in a folder is a copy that `copy` has made."""
    return (directory / INVENTORY).exists()


def inventory(directory: Path) -> dict[str, Any]:
    """Return what a prepared image folder or table contains.

    Returns:
      A dictionary of JSON values:

      - "classes": for each class and split, the number of `files`, a hash `sizes` of their names and sizes, and a hash
        `contents` of their names and contents. Names are relative to the class folder, or as in the table. The split
        "validation" is present only if there is one.
      - "left_out": number of files left out, by reason.
      - "skipped": names of the damaged files left out, relative to the image folder.
      - "image_size": height and width, or None if images differ in size.
      - "chosen": whether the test images were chosen, since the folder or the table has no test set.

    Raises:
      UsageError: if the dataset is damaged.
    """
    stored = _read_inventory(directory)
    return {
        "classes": stored["classes"],
        "left_out": stored["left_out"],
        "skipped": sorted(stored["damaged"]),
        "image_size": stored["image_size"],
        "chosen": stored["chosen"],
    }


def _resolve(path: str) -> Path:
    """Return the absolute path of the image folder.

    Raises:
      UsageError: if it is not a folder of files.
    """
    expanded = os.path.expanduser(path)
    if not path or not os.path.isdir(expanded) or scan.is_in_kernel_folder(expanded):
        raise UsageError(
            f"{PREFIX}{shown(path)} is not a folder. Give a folder that contains one folder of images for each class, "
            "or train and test folders with these."
        )
    return Path(expanded).resolve()


def _write(found: Found, target: Path, name: str, skip_damaged: bool, progress: Progress | None) -> None:
    """Write a dataset of the images to `target`.

    The splits of a folder without a test set depend on the number of images, which is known after every file was read.
    The first pass expects that the files with names of images are the images. Only if other files would be in the test
    set after all, a second pass reads the images again.

    Raises:
      UsageError: if images are damaged, or a class has no images.
    """
    files = sorted(found.files, key=shuffled)
    splits = assign((file for file in files if file.is_expected_image), found.division)
    verdicts: dict[File, Verdict] = {}
    while True:
        writer = storage.Writer(target, name, found.class_names)
        try:
            _write_records(writer, files, splits, verdicts, skip_damaged, progress)
        finally:
            writer.close()
        damaged = {shown(file.relative): verdict.damage for file, verdict in verdicts.items() if verdict.damage}
        _require_intact(found, damaged, skip_damaged)
        files = [file for file in files if verdicts[file].image_size is not None]
        check_classes(found, files)
        final = assign(files, found.division)
        if all(splits.get(file) == split for file, split in final.items()):
            break
        splits = final
        shutil.rmtree(target)
    sizes = {verdicts[file].image_size for file in files}
    image_size = sizes.pop() if len(sizes) == 1 else None
    writer.write_metadata(image_size or (None, None))
    not_images = sum(verdict.image_size is None and verdict.damage is None for verdict in verdicts.values())
    overlaps = find_overlaps(final, {file: verdicts[file].digest for file in final}) if found.is_table else []
    stored = {
        "classes": _describe_classes(found.class_names, final, verdicts),
        "left_out": {**found.left_out, scan.NOT_IMAGES: not_images},
        "damaged": damaged,
        "image_size": image_size,
        "chosen": any(file.split is None for file in found.files),
        "notes": [*find_missing(final), *overlaps],
    }
    (target / INVENTORY).write_text(json.dumps(stored, indent=1))


def _write_records(
    writer: storage.Writer,
    files: Sequence[File],
    splits: Mapping[File, str],
    verdicts: dict[File, Verdict],
    skip_damaged: bool,
    progress: Progress | None,
) -> None:
    """Read all files, store a verdict on each, and write the images that have a split.

    After a damaged image nothing is written, unless these are skipped, since the dataset will not be used.
    """
    useless = False
    for done, (file, content, verdict) in enumerate(read_all(files), 1):
        verdicts[file] = verdict
        useless |= verdict.damage is not None and not skip_damaged
        if verdict.image_size is not None and file in splits and not useless:
            writer.write(splits[file], content, file.label, shown(file.relative))
        if progress is not None:
            progress("files", done, len(files))


def _describe_classes(
    class_names: Iterable[str], splits: Mapping[File, str], verdicts: Mapping[File, Verdict]
) -> dict[str, Any]:
    """Return the entry "classes" of `inventory`."""
    used = [split for split in SPLITS if split != "validation" or split in splits.values()]
    lines = {(label, split): ([], []) for label in class_names for split in used}
    for file, split in splits.items():
        sizes, contents = lines[file.label, split]
        sizes.append(f"{shown(file.name)}\0{file.size}\n")
        contents.append(f"{shown(file.name)}\0{verdicts[file].digest}\n")
    classes: dict[str, Any] = {label: {} for label in class_names}
    for (label, split), (sizes, contents) in lines.items():
        classes[label][split] = {
            "files": len(sizes),
            "sizes": hashlib.sha256("".join(sorted(sizes)).encode()).hexdigest(),
            "contents": hashlib.sha256("".join(sorted(contents)).encode()).hexdigest(),
        }
    return classes


def _require_intact(found: Found, damaged: Mapping[str, str], skip_damaged: bool) -> None:
    """Raise `UsageError` with the names of all damaged images, unless they are skipped."""
    if damaged and not skip_damaged:
        listed = ", ".join(f"{name} ({damage})" for name, damage in sorted(damaged.items()))
        raise UsageError(
            f"{found.title} has {count(len(damaged), 'damaged image')}: {listed}. Remove or replace them, or leave "
            "them out with --skip-damaged."
        )


def _read_inventory(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / INVENTORY).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"prepared image folder is damaged: {directory / INVENTORY}. Remove {directory}.") from error
