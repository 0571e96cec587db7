"""Divide images into training, validation and test images, in the same way for each class, and check the result."""

import collections
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxcnn.data.imagefolder.files import Division, File, Found
from jaxcnn.errors import UsageError

SPLITS = ("train", "validation", "test")
"""Names of the splits, in the order in which messages list them."""

ADJECTIVES = {"train": "training", "validation": "validation", "test": "test"}


def assign(files: Iterable[File], division: Division = Division()) -> dict[File, str]:  # noqa: B008  # immutable
    """Return the split of each file.

    Files without a given split are divided class by class, by the fractions in `division`. The number of test images is
    rounded, and is at least one if the class has two or more images. The number of validation images is rounded, and is
    at least one if the class has three or more images. At least one image of each class becomes a training image.

    The images of a class are sorted by a hash of the file name and the seed. The first images become test images, the
    next images become validation images, and the remaining images become training images. New images therefore change
    the split of few existing images. Rows of a table that name the same file count as one image, and have the same
    split.
    """
    splits: dict[File, str] = {}
    by_class: dict[str, list[File]] = collections.defaultdict(list)
    for file in files:
        if file.split is None or (file.split == "train" and division.validation is not None):
            by_class[file.label].append(file)
        else:
            splits[file] = file.split
    for members in by_class.values():
        has_test = members[0].split is not None
        images: dict[str, list[File]] = collections.defaultdict(list)
        for file in sorted(members, key=lambda file: _divided(file, division.seed)):
            images[file.path].append(file)
        kept = 2 if division.validation is not None and len(images) > 2 else 1
        tests = 0 if has_test else _count(len(images), division.test, len(images) - kept)
        held_out = _count(len(images), division.validation or 0, len(images) - tests - 1)
        for index, same in enumerate(images.values()):
            split = "test" if index < tests else "validation" if index < tests + held_out else "train"
            splits |= dict.fromkeys(same, split)
    return splits


def _count(images: int, fraction: float, most: int) -> int:
    """Return `images * fraction`, rounded, but at least 1 for a fraction above 0, and at most `most`."""
    return min(max(round(images * fraction), int(fraction > 0)), most)


def _divided(file: File, seed: int) -> bytes:
    """Return a sort key for a random order of files that depends on the seed. Seed 0 returns the key of `shuffled`."""
    if seed == 0:
        return shuffled(file)
    return hashlib.sha256(f"{seed}\0".encode() + os.fsencode(file.name)).digest() + os.fsencode(file.relative)


def shuffled(file: File) -> bytes:
    """Return a sort key for a fixed random order of files."""
    return hashlib.sha256(os.fsencode(file.name)).digest() + os.fsencode(file.relative)


def check_classes(found: Found, images: Iterable[File]) -> None:
    """Raise `UsageError` if there are fewer than two classes, a class has no training images, or a split is empty."""
    title, splits = found.title, assign(images, found.division)
    if not splits:
        remedy = "Add rows." if found.is_table else "Give a folder with one folder of images for each class."
        raise UsageError(f"no images found in {title}. {remedy}")
    labels = {name: {file.label for file, split in splits.items() if split == name} for name in SPLITS}
    train = labels["train"]
    for name in ("test", "validation"):
        for label in sorted(labels[name] - train):
            raise UsageError(
                f"{title} has {name} images but no training images of class {label!r}. "
                "Add training images of this class."
            )
    for label in sorted({*found.class_names} - train):
        rest = "from class_names" if found.is_table else "the class folder"
        remedy = f"Add training images, or remove {'it ' if found.is_table else ''}{rest}."
        raise UsageError(f"{title} has no training images of class {label!r}. {remedy}")
    if len(train) < 2:
        more = "rows" if found.is_table else "a folder of images"
        raise UsageError(
            f"{title} has training images of only one class: {', '.join(train)}. Add {more} for each of at least two "
            "classes."
        )
    if not labels["test"]:
        remedy = "Add rows" if found.is_table else "Add images, or make a train and a test folder"
        raise UsageError(f"{title} has no test images. {remedy}.")
    expected = found.division.validation is not None
    given = found.is_table and any(file.split == "validation" for file in found.files)
    if not labels["validation"] and (expected or given):
        remedy = "Add images, or omit validation" if expected else "Add validation images, or remove that split"
        raise UsageError(f"{title} has no validation images. {remedy}.")


def find_overlaps(splits: Mapping[File, str], digests: Mapping[File, str]) -> list[str]:
    """Return notes on equal images in different splits or classes.

    Images are equal if their contents have the same hash.
    """
    notes, images = [], collections.defaultdict(list)
    for file in splits:
        images[digests[file]].append(file)
    for index, first in enumerate(SPLITS):
        for second in SPLITS[index + 1 :]:
            both = [_name(same) for same in images.values() if {first, second} <= {splits[file] for file in same}]
            if both:
                where = f"both the {ADJECTIVES[first]} and the {ADJECTIVES[second]} set"
                notes.append(f"{_counted(both)} in {where}: {_listed(both)}")
    ambiguous = [_name(same) for same in images.values() if len({file.label for file in same}) > 1]
    if ambiguous:
        notes.append(f"{_counted(ambiguous)} of several classes: {_listed(ambiguous)}")
    return notes


def _name(same: Sequence[File]) -> Any:
    """Return the shortest of the names of equal files. The order of the files has no effect."""
    return min((file.relative for file in same), key=lambda name: (len(str(name)), str(name)))


def find_missing(splits: Mapping[File, str]) -> list[str]:
    """Return notes on the classes that have no validation images or no test images."""
    notes = []
    for name in ("validation", "test"):
        present = {file.label for file, split in splits.items() if split == name}
        missing = {file.label for file in splits} - present
        if present and missing:
            noun = "class" if len(missing) == 1 else "classes"
            notes.append(f"no {name} images of {noun} {_listed(list(map(repr, missing)))}")
    return notes


def _counted(images: Sequence[str]) -> str:
    return "1 image is" if len(images) == 1 else f"{len(images):,} images are"


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
