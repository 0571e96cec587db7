"""Prepare an image folder: check every file, copy the images to a TFDS dataset, and record what it contains."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.data.imagefolder import scan, storage
from jaxcnn.data.imagefolder.reading import Verdict, read_all
from jaxcnn.data.imagefolder.scan import File, Found, shown
from jaxcnn.errors import UsageError

PREFIX = "imagefolder:"

INVENTORY = "imagefolder.json"
"""File beside the records of a dataset, with the result of `inventory` and all damaged files."""

MAX_NAMES = 10
"""Maximum number of classes that a note names."""

Progress = Callable[[str, int, int], None]
"""Function that is called with "files", the number of files read, and the total number of files."""


class Prepared(NamedTuple):
    """A prepared image folder.

    Attributes:
      directory: folder of the dataset.
      notes: lines for the user about the images that were found, and about the copy.
    """

    directory: Path
    notes: tuple[str, ...]


def prepare(path: str, root: Path, *, skip_damaged: bool = False, progress: Progress | None = None) -> Prepared:
    """Copy the images in a folder to a dataset below `root`, unless that was done before.

    Args:
      path: folder of images, without the prefix "imagefolder:".
      root: folder of prepared datasets.
      skip_damaged: whether to leave out damaged images, instead of raising.
      progress: function that reports the progress. It is not called if the copy exists.

    Raises:
      UsageError: `path` has none of the accepted layouts or has damaged images, or `root` cannot be written. The error
        names all damaged images in one line.
      RunError: the copy cannot be written, for example because the disk is full.
    """
    folder = _resolve(path)
    found = scan.find(folder)
    name = storage.name_copy(folder, found.fingerprint())
    copy = root / name / storage.VERSION
    storage.remove_leftovers(root)
    while not storage.use(copy):
        with storage.temporary(root, name) as work:
            _write(found, work / name / storage.VERSION, name, skip_damaged, progress)
            storage.move(work, copy)
    stored = _read_inventory(copy)
    _require_intact(folder, stored["damaged"], skip_damaged)
    storage.remove_older(root, folder, keep=name)
    return Prepared(copy, _notes(found, stored, copy))


def inventory(directory: Path) -> dict[str, Any]:
    """Return what a prepared image folder contains.

    Returns:
      A dictionary of JSON values:

      - "classes": for each class and split, the number of `files`, a hash `sizes` of their names and sizes, and a hash
        `contents` of their names and contents. Names are relative to the class folder.
      - "left_out": number of files left out, by reason.
      - "skipped": names of the damaged files left out, relative to the image folder.
      - "image_size": height and width, or None if images differ in size.
      - "chosen": whether the test images were chosen, since the folder has no test set.

    Raises:
      UsageError: the dataset is damaged.
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
      UsageError: it is not a folder of files.
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
      UsageError: images are damaged, or a class has no images.
    """
    files = sorted(found.files, key=scan.shuffled)
    splits = scan.assign(file for file in files if file.has_image_suffix)
    verdicts: dict[File, Verdict] = {}
    while True:
        writer = storage.Writer(target, name, found.class_names)
        try:
            _write_records(writer, files, splits, verdicts, skip_damaged, progress)
        finally:
            writer.close()
        damaged = {shown(file.relative): verdict.damage for file, verdict in verdicts.items() if verdict.damage}
        _require_intact(found.folder, damaged, skip_damaged)
        files = [file for file in files if verdicts[file].image_size is not None]
        scan.check_classes(found, files)
        final = scan.assign(files)
        if all(splits.get(file) == split for file, split in final.items()):
            break
        splits = final
        shutil.rmtree(target)
    sizes = {verdicts[file].image_size for file in files}
    image_size = sizes.pop() if len(sizes) == 1 else None
    writer.write_metadata(image_size or (None, None))
    not_images = sum(verdict.image_size is None and verdict.damage is None for verdict in verdicts.values())
    stored = {
        "classes": _describe_classes(found.class_names, final, verdicts),
        "left_out": {**found.left_out, scan.NOT_IMAGES: not_images},
        "damaged": damaged,
        "image_size": image_size,
        "chosen": any(file.split is None for file in found.files),
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
    for count, (file, content, verdict) in enumerate(read_all(files), 1):
        verdicts[file] = verdict
        useless |= verdict.damage is not None and not skip_damaged
        if verdict.image_size is not None and file in splits and not useless:
            writer.write(splits[file], content, file.label, shown(file.relative))
        if progress is not None:
            progress("files", count, len(files))


def _describe_classes(
    class_names: Iterable[str], splits: Mapping[File, str], verdicts: Mapping[File, Verdict]
) -> dict[str, Any]:
    """Return the entry "classes" of `inventory`."""
    lines = {(label, split): ([], []) for label in class_names for split in ("train", "test")}
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


def _require_intact(folder: Path, damaged: Mapping[str, str], skip_damaged: bool) -> None:
    """Raise `UsageError` with the names of all damaged images, unless they are skipped."""
    if damaged and not skip_damaged:
        listed = ", ".join(f"{name} ({damage})" for name, damage in sorted(damaged.items()))
        raise UsageError(
            f"{shown(folder)} has {_count(len(damaged), 'damaged image')}: {listed}. Remove or replace them, or leave "
            "them out with --skip-damaged."
        )


def _read_inventory(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / INVENTORY).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"prepared image folder is damaged: {directory / INVENTORY}. Remove {directory}.") from error


def _notes(found: Found, stored: Mapping[str, Any], copy: Path) -> tuple[str, ...]:
    """Return lines for the user about the images that were found, and about their copy."""
    classes = stored["classes"]
    train, test = (sum(splits[split]["files"] for splits in classes.values()) for split in ("train", "test"))
    names = f" ({', '.join(classes)})" if len(classes) <= MAX_NAMES else ""
    parts = [f"{_count(len(classes), 'class', 'classes')}{names}, {train:,} training and {test:,} test images"]
    if stored["chosen"]:
        parts[0] += " (one fifth of each class)"
    if stored["image_size"]:
        parts.append("image size {} x {}".format(*stored["image_size"]))
    # The folder is scanned at every start, and its other files may have changed since it was prepared.
    left_out = {
        **found.left_out,
        scan.NOT_IMAGES: stored["left_out"][scan.NOT_IMAGES],
        "damaged": len(stored["damaged"]),
    }
    reasons = [f"{reason} ({count:,})" for reason, count in left_out.items() if count]
    if reasons:
        parts.append(f"left out: {', '.join(reasons)}")
    size = storage.size_of(copy) / 1e6
    return (
        f"{found.name}: {'; '.join(parts)}",
        f"{found.name}: copy of these images: {copy} ({size:,.1f} MB)",
    )


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
