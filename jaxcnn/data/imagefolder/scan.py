"""Find the files of an image folder, with their classes and splits, without reading them."""

import collections
import functools
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxcnn.data import decode
from jaxcnn.errors import UsageError

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
"""Folders that operating systems add. They contain thumbnails and metadata."""

IMAGES_PER_TEST_IMAGE = 5
"""Without a test folder, one of this many images of each class belongs to the test split."""

KERNEL_FOLDERS = ("/proc/", "/sys/")
"""Folders of the operating system's kernel, which have no end for a walk that follows links."""

HIDDEN = "hidden"
BROKEN_LINKS = "broken links"
LOOPS = "links to folders that were read already"
SPECIAL = "not regular files"
OUTSIDE = "outside the class folders"
NOT_IMAGES = "not images"


class File(NamedTuple):
    """A file in a class folder.

    Attributes:
      path: path of the file.
      relative: path relative to the image folder.
      name: path relative to the class folder.
      label: name of the class.
      split: "train" or "test"; None if the layout does not say it.
      size: number of bytes.
      modified: time of the last modification, in ns.
    """

    path: str
    relative: str
    name: str
    label: str
    split: str | None
    size: int
    modified: int

    @property
    def has_image_suffix(self) -> bool:
        return os.path.splitext(self.name)[1].lower() in image_suffixes()


class Found(NamedTuple):
    """Files of an image folder.

    Attributes:
      folder: the image folder.
      files: files that may be images, in a fixed order.
      left_out: number of other files by the reason for leaving them out.
    """

    folder: Path
    files: tuple[File, ...]
    left_out: Mapping[str, int]

    @property
    def name(self) -> str:
        """Return the name of the image folder, for messages."""
        return shown(self.folder.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the sorted names of the classes that must have training images."""
        return tuple(sorted({file.label for file in self.files if file.split != "test"}))

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes and modification times of the files, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for file in self.files:
            line = f"{file.split}\0{file.label}\0{file.relative}\0{file.size}\0{file.modified}\n"
            digest.update(os.fsencode(line))
        return digest.hexdigest()[:16]


def find(folder: Path) -> Found:
    """Find the files of an image folder.

    Raises:
      UsageError: the layout is not one of those accepted, a class folder is empty or has an unsupported name, there are
        fewer than two classes or no test images, a class has test images only, or a folder cannot be read.
    """
    left_out = collections.Counter[str]()
    parts = _split_folders(folder, left_out)
    files = [
        file
        for split, part in parts.items()
        for file in _files_of_classes(folder, part, None if len(parts) == 1 else split, left_out)
    ]
    found = Found(folder, tuple(files), dict(left_out))
    # Files without the suffix of an image are judged when they are read. Until then they may be images, except that
    # they alone do not make a folder of the test set a class.
    likely = [f for f in files if f.split != "test" or f.has_image_suffix or f.label in found.class_names]
    check_classes(found, likely)
    return found


def assign(files: Iterable[File]) -> dict[File, str]:
    """Return the split of each file.

    If the layout does not say it, one fifth of each class is the test split: rounded, and at least one of two images.
    These are the first images in the order of a hash of their names, so that further images move few others.
    """
    splits = {}
    by_class = collections.defaultdict(list)
    for file in files:
        if file.split is None:
            by_class[file.label].append(file)
        else:
            splits[file] = file.split
    for members in by_class.values():
        members.sort(key=shuffled)
        tests = max(round(len(members) / IMAGES_PER_TEST_IMAGE), int(len(members) > 1))
        splits |= {file: "test" if index < tests else "train" for index, file in enumerate(members)}
    return splits


def shuffled(file: File) -> bytes:
    """Return a sort key that brings the files in a fixed random order."""
    return hashlib.sha256(os.fsencode(file.name)).digest() + os.fsencode(file.relative)


def check_classes(found: Found, images: Iterable[File]) -> None:
    """Raise `UsageError` unless there are two classes, each with training images, and test images."""
    folder, splits = shown(found.folder), assign(images)
    if not splits:
        raise UsageError(f"no images found in {folder}. Give a folder with one folder of images for each class.")
    train, test = ({file.label for file, split in splits.items() if split == name} for name in ("train", "test"))
    for label in sorted(test - train):
        raise UsageError(f"{folder} has test images but no training images of class {label!r}. Add some.")
    for label in sorted({*found.class_names} - train):
        raise UsageError(f"{folder} has no training images of class {label!r}. Add some, or remove the class folder.")
    if len(train) < 2:
        raise UsageError(
            f"{folder} has training images of one class only: {', '.join(train)}. Add a folder of images for each of "
            "at least two classes."
        )
    if not test:
        raise UsageError(f"{folder} has no test images. Add images, or make a train and a test folder.")


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes of all image formats that can be decoded, such as ".jpg"."""
    readable = decode.readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def shown(name: str | Path) -> str:
    r"""Return a file name as one line of valid Unicode. Other bytes and control characters become `\x..`.

    >>> shown("a\nb")
    'a\\x0ab'
    """
    return "".join(
        rf"\x{_byte(character):02x}" if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in os.fspath(name)
    )


def _byte(character: str) -> int:
    """Return the byte that Python has replaced by this character since it is not UTF-8, or the code of a character."""
    code = ord(character)
    return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code


def _split_folders(folder: Path, left_out: collections.Counter[str]) -> dict[str, str]:
    """Return the folder of class folders of each split, or of "train" only if there is no test folder.

    Files and folders beside them are counted in `left_out`.

    Raises:
      UsageError: it is unclear which folders are classes.
    """
    root = os.fspath(folder)
    folders = _folders(root)
    train = next((name for known in TRAIN_FOLDERS for name in folders if name.lower() == known), None)
    tests = [name for known in TEST_FOLDERS for name in folders if name.lower() == known]
    if train is None:
        nested = [name for name in tests if set(_folders(os.path.join(root, name))) & ({*folders} - {*tests})]
        if nested or (tests and len(tests) == len(folders)):
            raise UsageError(f"{shown(folder)} has a folder {(nested or tests)[0]} but no folder train. Add one.")
        return {"train": root}
    in_train = _folders(os.path.join(root, train))
    if tests and not in_train:
        raise UsageError(f"{shown(folder / train)} has no class folders. Add one folder of images for each class.")
    test = next((name for name in tests if _folders(os.path.join(root, name))), None)
    others = [name for name in folders if name not in (train, test) and _contains_images(os.path.join(root, name))]
    if test is not None or (others and set(others) <= set(tests)):
        for name in others:
            reason = f"since {test}/ is the test set" if test else "which has no class folders"
            left_out[f"in {shown(name)}/, {reason}"] += sum(
                len(files) for _, _, files in os.walk(os.path.join(root, name))
            )
        _count_outside(root, left_out)
        parts = {"train": train} if test is None else {"train": train, "test": test}
        return {split: os.path.join(root, name) for split, name in parts.items()}
    if not in_train:
        return {"train": root}  # a class with the name train
    if not others:
        _count_outside(root, left_out)
        return {"train": os.path.join(root, train)}
    if any(_is_image_name(entry.name) for entry in _entries(os.path.join(root, train))):
        return {"train": root}
    raise UsageError(
        f"{shown(folder)} has a folder {train} of folders and no test folder, but also other folders of images: "
        f"{', '.join(map(shown, others[:5]))}. Add a test folder, or rename {train} if it is a class."
    )


def _files_of_classes(folder: Path, part: str, split: str | None, left_out: collections.Counter[str]) -> Iterator[File]:
    """Find the files in all class folders of `part`, in a fixed order."""
    _count_outside(part, left_out)
    above = {_identity(os.stat(folder)), _identity(os.stat(part))}
    prefix = len(os.path.join(folder, ""))
    for label in _folders(part):
        top = os.path.join(part, label)
        _check_class_name(top, label)
        empty = True
        for path, status in _walk(top, above, left_out):
            empty = False
            yield File(path, path[prefix:], path[len(top) + 1 :], label, split, status.st_size, status.st_mtime_ns)
        if empty and split != "test":
            raise UsageError(f"class folder has no images: {shown(top)}. Add some, or remove it.")


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
    """Return whether the name of any file below `folder` is that of an image. Links to folders are not followed."""
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


def _check_class_name(path: str, name: str) -> None:
    """Raise `UsageError` if TFDS cannot store the name of a class, as a line of UTF-8 without surrounding blanks."""
    if name != name.strip() or shown(name) != name:
        raise UsageError(
            f"unsupported name of a class folder: '{shown(path)}'. Rename it in UTF-8, without line breaks and without "
            "blanks at its ends."
        )


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"cannot read {shown(path)}: {error.strerror or error}. Allow reading it, or remove it.")
