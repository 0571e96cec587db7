"""Find the files of an image folder, with their classes and splits, without reading the files."""

import collections
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxcnn.data.imagefolder.division import check_classes
from jaxcnn.data.imagefolder.files import Division, File, Found, check_class_name, image_suffixes, shown
from jaxcnn.errors import UsageError

TRAIN_FOLDERS = ("train", "training")
VALIDATION_FOLDERS = ("val", "valid", "validation")
TEST_FOLDERS = ("test", "testing", *VALIDATION_FOLDERS)
"""Names of folders of test images, in order of preference. A validation folder is used if there is no test folder."""
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
"""Names of the folders of thumbnails and metadata that operating systems add."""

KERNEL_FOLDERS = ("/proc/", "/sys/")
"""Folders of the operating system's kernel. A search that follows links would never end in these folders."""

HIDDEN = "hidden"
BROKEN_LINKS = "broken links"
LOOPS = "links to folders that were read already"
SPECIAL = "not regular files"
OUTSIDE = "outside the class folders"
NOT_IMAGES = "not images"


def find(folder: Path, division: Division = Division()) -> Found:  # noqa: B008  # immutable
    """Find the files of an image folder.

    Args:
      folder: the image folder.
      division: how to divide images whose split the folder layout does not give.

    Raises:
      UsageError: if the layout is not accepted, a folder cannot be read, or a class folder is empty or has an
        unsupported name. `UsageError` is also raised if there are fewer than two classes or no test images, or a class
        has no training images. `UsageError` is also raised if both the folder and `division` define a validation split.
    """
    left_out = collections.Counter[str]()
    parts = _split_folders(folder, left_out)
    files = [
        file
        for split, part in parts.items()
        for file in _files_of_classes(folder, part, None if len(parts) == 1 else split, left_out)
    ]
    notes = ()
    if "validation" in parts and division.validation is not None:
        raise UsageError(
            f"validation is {division.validation}, but {shown(folder)} has a folder of validation images. Omit "
            "validation, or remove the folder of validation images."
        )
    if "test" in parts and division.test != Division().test:
        notes = (f"test={division.test} has no effect, since the folder has test images",)
    found = Found(folder, tuple(files), dict(left_out), division, notes=notes)
    # Files without an image suffix are checked only when they are read. Here they count as images, except in classes
    # that only the test or validation folder has.
    likely = [f for f in files if f.split in (None, "train") or f.has_image_suffix or f.label in found.class_names]
    check_classes(found, likely)
    return found


def _split_folders(folder: Path, left_out: collections.Counter[str]) -> dict[str, str]:
    """Return the folder of class folders for each split. Without a test folder, return only the folder of "train".

    The split "validation" is present only if there are both a test folder and a validation folder. Files and folders
    outside these folders are counted in `left_out`.

    Raises:
      UsageError: if it is unclear which folders are classes.
    """
    root = os.fspath(folder)
    folders = _folders(root)
    train = next((name for known in TRAIN_FOLDERS for name in folders if name.lower() == known), None)
    tests = [name for known in TEST_FOLDERS for name in folders if name.lower() == known]
    if train is None:
        nested = [name for name in tests if set(_folders(os.path.join(root, name))) & ({*folders} - {*tests})]
        if nested or (tests and len(tests) == len(folders)):
            raise UsageError(
                f"{shown(folder)} has a folder {(nested or tests)[0]} but no folder train. Add a folder named train."
            )
        return {"train": root}
    in_train = _folders(os.path.join(root, train))
    if tests and not in_train:
        raise UsageError(f"{shown(folder / train)} has no class folders. Add one folder of images for each class.")
    with_classes = [name for name in tests if _folders(os.path.join(root, name))]
    test = with_classes[0] if with_classes else None
    rest = [name for name in with_classes[1:] if name.lower() in VALIDATION_FOLDERS]
    validation = rest[0] if rest and str(test).lower() not in VALIDATION_FOLDERS else None
    used = (train, validation, test)
    others = [name for name in folders if name not in used and _contains_images(os.path.join(root, name))]
    if test is not None or (others and set(others) <= set(tests)):
        for name in others:
            reason = f"since {test}/ is the test set" if test else "which has no class folders"
            left_out[f"in {shown(name)}/, {reason}"] += sum(
                len(files) for _, _, files in os.walk(os.path.join(root, name))
            )
        _count_outside(root, left_out)
        parts = {"train": train, "validation": validation, "test": test}
        return {split: os.path.join(root, name) for split, name in parts.items() if name is not None}
    if not in_train:
        return {"train": root}  # a class named "train"
    if not others:
        _count_outside(root, left_out)
        return {"train": os.path.join(root, train)}
    if any(_is_image_name(entry.name) for entry in _entries(os.path.join(root, train))):
        return {"train": root}
    raise UsageError(
        f"{shown(folder)} contains a folder {train} with class folders, and other folders of images "
        f"({', '.join(map(shown, others[:5]))}), but no test folder. "
        f"Add a test folder, or rename the folder {train} if this folder is a class."
    )


def _files_of_classes(folder: Path, part: str, split: str | None, left_out: collections.Counter[str]) -> Iterator[File]:
    """Find the files in all class folders of `part`, in a fixed order."""
    _count_outside(part, left_out)
    above = {_identity(os.stat(folder)), _identity(os.stat(part))}
    prefix = len(os.path.join(folder, ""))
    for label in _folders(part):
        top = os.path.join(part, label)
        check_class_name(label, "class folder", top)
        empty = True
        for path, status in _walk(top, above, left_out):
            empty = False
            yield File(path, path[prefix:], path[len(top) + 1 :], label, split, status.st_size, status.st_mtime_ns)
        if empty and split in (None, "train"):
            raise UsageError(f"class folder has no images: {shown(top)}. Add images, or remove the folder.")


def _walk(
    top: str, above: set[tuple[int, int]], left_out: collections.Counter[str]
) -> Iterator[tuple[str, os.stat_result]]:
    """Find the files below a folder, in a fixed order. Each folder is read once, so that links cannot form a loop."""
    pending, seen = [top], set(above)
    while pending:
        current = pending.pop()
        identity = _identity(os.stat(current))
        if identity in seen:
            left_out[LOOPS] += 1
            continue
        seen.add(identity)
        folders = []
        for entry in _entries(current):
            if _is_hidden(entry.name):
                left_out[HIDDEN] += 1
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink():
                    raise _unreadable(entry.path, error) from error
                left_out[BROKEN_LINKS] += 1
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.is_symlink() and is_in_kernel_folder(entry.path):
                    left_out[SPECIAL] += 1
                else:
                    folders.append(entry.path)
            elif stat.S_ISREG(status.st_mode):
                yield entry.path, status
            else:
                left_out[SPECIAL] += 1
        pending += reversed(folders)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _folders(folder: str) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not hidden."""
    return [entry.name for entry in _entries(folder) if not _is_hidden(entry.name) and os.path.isdir(entry.path)]


def _count_outside(folder: str, left_out: collections.Counter[str]) -> None:
    """Count files in `folder` that belong to no class."""
    for entry in _entries(folder):
        if _is_hidden(entry.name):
            left_out[HIDDEN] += 1
        elif not os.path.exists(entry.path):
            left_out[BROKEN_LINKS] += 1
        elif not os.path.isdir(entry.path):
            left_out[OUTSIDE] += 1


def _contains_images(folder: str) -> bool:
    """Return whether any file below `folder` has an image suffix. Links to folders are not followed."""
    return any(_is_image_name(name) for _, _, files in os.walk(folder) for name in files)


def _is_image_name(name: str) -> bool:
    return not _is_hidden(name) and os.path.splitext(name)[1].lower() in image_suffixes()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def is_in_kernel_folder(path: str | Path) -> bool:
    """Return whether a path leads into one of `KERNEL_FOLDERS`.

    >>> is_in_kernel_folder("/proc/self"), is_in_kernel_folder("/processed")
    (True, False)
    """
    return f"{os.path.realpath(path)}/".startswith(KERNEL_FOLDERS)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(
        f"cannot read {shown(path)}: {error.strerror or error}. Make this file or folder readable, or remove it."
    )
