"""Describe the image files of a folder or a table: their paths, classes and splits."""

import functools
import hashlib
import numbers
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxcnn.data import decode
from jaxcnn.errors import UsageError


class Division(NamedTuple):
    """How to divide images without a given split into training, validation and test images, class by class.

    Attributes:
      test: fraction of the images of each class in the test split.
      validation: fraction of the images of each class in the validation split. If the data already has a test set,
        `validation` is a fraction of the training images. If `validation` is None, there is no validation split.
      seed: random seed of the choice of images.
    """

    test: float = 0.2
    validation: float | None = None
    seed: int = 0


def make_division(test: float, validation: float | None, seed: int) -> Division:
    """Check the fractions and the seed, and return a `Division`.

    Raises:
      UsageError: if a fraction is not between 0 and 1, the fractions leave no training images, or the seed is not an
        integer.
    """
    fractions = {"test": test} if validation is None else {"test": test, "validation": validation}
    for name, part in fractions.items():
        if not isinstance(part, numbers.Real) or isinstance(part, bool) or not 0 < float(part) < 1:
            raise UsageError(f"{name} is not a fraction between 0 and 1: {part!r}. Give a fraction, such as 0.2.")
    if sum(fractions.values()) >= 1:
        raise UsageError(
            f"no training images are left: test is {test} and validation {validation}. "
            "Choose smaller fractions for test and validation."
        )
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise UsageError(f"seed is not an integer: {seed!r}. Give an integer.")
    return Division(float(test), None if validation is None else float(validation), int(seed))


class File(NamedTuple):
    """A file in a class folder, or in a row of a table.

    Attributes:
      path: path of the file.
      relative: path relative to the image folder, or to the root folder of the table.
      name: path relative to the class folder; for a table, the same as `relative`.
      label: name of the class.
      split: "train", "validation" or "test"; None if neither the folder layout nor the table gives a split.
      size: number of bytes.
      modified: time of the last modification, in nanoseconds.
      occurrence: number of earlier rows of the table with the same path, label and split; None for a folder.
    """

    path: str
    relative: str
    name: str
    label: str
    split: str | None
    size: int
    modified: int
    occurrence: int | None = None

    @property
    def has_image_suffix(self) -> bool:
        return os.path.splitext(self.name)[1].lower() in image_suffixes()

    @property
    def is_expected_image(self) -> bool:
        """Return whether the file must be an image, so that any other content is an error."""
        return self.has_image_suffix or self.occurrence is not None


class Found(NamedTuple):
    """Files of an image folder or of a table.

    Attributes:
      source: path of the image folder or of the table file; None for a table in memory.
      files: files that may be images, in a fixed order.
      left_out: number of files that were left out, for each reason.
      division: how images without a given split are divided.
      classes: class names of a table, in the order of the labels; None for a folder.
      notes: messages for the user about the splits, one line each.
    """

    source: Path | None
    files: tuple[File, ...]
    left_out: Mapping[str, int]
    division: Division = Division()
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        return self.classes is not None

    @property
    def title(self) -> str:
        """Return the path of the folder or the table, for error messages."""
        return "the table" if self.source is None else shown(self.source)

    @property
    def name(self) -> str:
        """Return the file name of the folder or the table, for messages to the user."""
        return "table" if self.source is None else shown(self.source.name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes that must have training images. The class names of a folder are sorted."""
        if self.classes is not None:
            return self.classes
        return tuple(sorted({file.label for file in self.files if file.split in (None, "train")}))

    @property
    def identity(self) -> bytes:
        """Return bytes that name the folder or the table. The bytes do not depend on the contents of the files.

        The bytes are the path of the folder or the table file, or the paths of all files of a table in memory.
        """
        if self.source is not None:
            return os.fsencode(self.source)
        return b"\0".join(sorted({os.fsencode(file.path) for file in self.files}))

    @property
    def is_divided(self) -> bool:
        """Return whether `division` can change the split of any file."""
        return self.division.validation is not None or any(file.split is None for file in self.files)

    def fingerprint(self) -> str:
        """Return a hash of the files to copy, as 16 hexadecimal digits.

        The hash covers the names, sizes and modification times of the files, and their classes and splits. The hash
        also covers `division` if the division has an effect and is not the default.
        """
        digest = hashlib.sha256()
        for file in self.files:
            line = f"{file.split}\0{file.label}\0{file.relative}\0{file.size}\0{file.modified}\n"
            digest.update(os.fsencode(line))
        if self.is_divided and self.division != Division():
            digest.update(f"{self.division}\n".encode())
        if self.classes is not None:
            digest.update(f"{self.classes}\n".encode())
        return digest.hexdigest()[:16]


def check_class_name(name: str, what: str, where: str) -> None:
    """Raise `UsageError` if a class name is not one line of UTF-8 without outer blanks, as TFDS requires.

    Args:
      name: name of the class.
      what: kind of object that has this name, such as "class folder", for the error message.
      where: the name or the path of the object, for the error message.
    """
    if not name or name != name.strip() or shown(name) != name:
        raise UsageError(
            f"unsupported name of a {what}: '{shown(where)}'. Use a name in UTF-8, without line breaks and without "
            "blanks at its start or end."
        )


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes of all image formats that can be decoded, such as ".jpg"."""
    readable = decode.readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def shown(name: str | Path) -> str:
    r"""Return a file name as one line of valid Unicode. Invalid bytes and control characters become `\x..`.

    >>> shown("a\nb")
    'a\\x0ab'
    """
    return "".join(
        rf"\x{_byte(character):02x}" if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in os.fspath(name)
    )


def _byte(character: str) -> int:
    """Return the code of a character. For a surrogate character, return the invalid UTF-8 byte that it stands for."""
    code = ord(character)
    return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
