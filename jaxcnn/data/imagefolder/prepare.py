"""Prepare an image folder or a table: check all files, copy the images to a TFDS dataset, and record the result."""

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
"""Prefix of the dataset name of an image folder: "imagefolder:PATH"."""

CSV_PREFIX = "csv:"
"""Prefix of the dataset name of a table of images: "csv:FILE"."""

INVENTORY = "imagefolder.json"
"""Name of the file in the folder of a copy that stores the result of `inventory` and all damaged files."""

Progress = Callable[[str, int, int], None]
"""Function that is called with "files", the number of files read, and the total number of files."""


class Prepared(NamedTuple):
    """A prepared image folder or table.

    Attributes:
      directory: folder of the dataset.
      notes: lines for the user about the images that were found, and about the copy.
      is_default: True if `open_dataset` opens the same dataset by the name of the folder, because the division is the
        default and no image is damaged.
    """

    directory: Path
    notes: tuple[str, ...]
    is_default: bool = True


def is_name(name: str) -> bool:
    """Return whether a dataset name is "imagefolder:PATH" or "csv:FILE", which `prepare_named` accepts."""
    return name.startswith((PREFIX, CSV_PREFIX))


def prepare_named(name: str, root: Path, *, skip_damaged: bool = False, progress: Progress | None = None) -> Prepared:
    """Copy the images of "imagefolder:PATH" or "csv:FILE" to a dataset below `root`, if no copy exists.

    Raises:
      UsageError: if the path is not a folder or a table of images, or `copy` raises `UsageError`.
      RunError: if the copy cannot be written, for example because the disk is full.
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
    """Copy the images in a folder to a dataset below `root`, if no copy exists.

    Args:
      path: folder of images, without the prefix "imagefolder:".
      root: folder of prepared datasets.
      division: how to divide images whose split the folder layout does not give.
      skip_damaged: whether to skip damaged images. By default, damaged images raise an error.
      progress: function that reports the progress. The function is not called if the copy already exists.

    Raises:
      UsageError: if `path` has none of the accepted layouts, images are damaged, or `root` cannot be written.
      RunError: if the copy cannot be written, for example because the disk is full.
    """
    found = scan.find(_resolve(path), division)
    return copy(found, root, skip_damaged=skip_damaged, progress=progress)


def copy(found: Found, root: Path, *, skip_damaged: bool = False, progress: Progress | None = None) -> Prepared:
    """Copy images to a dataset below `root`, if no copy exists.

    Older copies of the same folder or table are removed if no process uses them.

    Args:
      found: images to copy.
      root: folder of prepared datasets.
      skip_damaged: whether to skip damaged images. By default, damaged images raise an error.
      progress: function that reports the progress. The function is not called if the copy already exists.

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
    """Return whether the dataset in `directory` was made by `copy`."""
    return (directory / INVENTORY).exists()


def inventory(directory: Path) -> dict[str, Any]:
    """Return the contents of a prepared image folder or table.

    Returns:
      A dictionary of JSON values:

      - "classes": a dict for each class and split. `files` is the number of files, `sizes` is a hash of the file names
        and sizes, and `contents` is a hash of the file names and contents. A file name is the path relative to the
        class folder, or the path in the table. The split "validation" is present only if the dataset has a validation
        split.
      - "left_out": number of files left out, by reason.
      - "skipped": names of the damaged files left out, relative to the image folder.
      - "image_size": height and width, or None if images differ in size.
      - "chosen": whether the test images were selected automatically, because there is no test set.

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
      UsageError: if the path is not a folder of files.
    """
    expanded = os.path.expanduser(path)
    if not path or not os.path.isdir(expanded) or scan.is_in_kernel_folder(expanded):
        raise UsageError(
            f"{PREFIX}{shown(path)} is not a folder. Give a folder that contains one folder of images for each class, "
            "or train and test folders that contain class folders."
        )
    return Path(expanded).resolve()


def _write(found: Found, target: Path, name: str, skip_damaged: bool, progress: Progress | None) -> None:
    """Write a dataset of the images to `target`.

    If a folder has no test set, the splits depend on the number of images, which is known only after all files are
    read. The first pass assumes that exactly the files with an image suffix are images. If this assumption leads to
    wrong splits, a second pass reads and writes the images again.

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
    """Read all files, store a verdict on each file, and write the images that have a split.

    If damaged images are not skipped, nothing is written after the first damaged image, because the dataset will be
    discarded. The remaining files are only checked.
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
    """Raise `UsageError` with the names of all damaged images, if there are any and `skip_damaged` is False."""
    if damaged and not skip_damaged:
        listed = ", ".join(f"{name} ({damage})" for name, damage in sorted(damaged.items()))
        raise UsageError(
            f"{found.title} has {count(len(damaged), 'damaged image')}: {listed}. "
            "Remove or replace these images, or skip damaged images with --skip-damaged."
        )


def _read_inventory(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / INVENTORY).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"prepared image folder is damaged: {directory / INVENTORY}. "
            f"Remove {directory} to prepare the images again."
        ) from error
