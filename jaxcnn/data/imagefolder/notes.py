"""Describe the images of a folder or a table for the user, and their division into splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.data.imagefolder import storage
from jaxcnn.data.imagefolder.division import ADJECTIVES, SPLITS
from jaxcnn.data.imagefolder.files import Division, Found
from jaxcnn.data.imagefolder.scan import NOT_IMAGES

MAX_NAMES = 10
"""Maximum number of class names in a note."""


def describe(found: Found, stored: Mapping[str, Any], copy: Path) -> tuple[str, ...]:
    """Return lines for the user about the images that were found, and about their copy.

    Args:
      found: the images that are in the folder or the table now.
      stored: result of `inventory` for the copy.
      copy: folder of the copy.
    """
    classes = stored["classes"]
    counts = {split: sum(splits.get(split, {"files": 0})["files"] for splits in classes.values()) for split in SPLITS}
    counted = [f"{counts[split]:,} {ADJECTIVES[split]}" for split in SPLITS if counts[split]]
    names = f" ({', '.join(classes)})" if len(classes) <= MAX_NAMES else ""
    parts = [f"{count(len(classes), 'class', 'classes')}{names}, {', '.join(counted[:-1])} and {counted[-1]} images"]
    if found.is_divided:
        parts[0] += f" ({_describe_division(found)})"
    if stored["image_size"]:
        parts.append("image size {} x {}".format(*stored["image_size"]))
    # Count the files that are not images again: these files may have changed since the images were copied.
    left_out = {
        **found.left_out,
        NOT_IMAGES: stored["left_out"][NOT_IMAGES],
        "damaged": len(stored["damaged"]),
    }
    reasons = [f"{reason} ({count:,})" for reason, count in left_out.items() if count]
    if reasons:
        parts.append(f"left out: {', '.join(reasons)}")
    size = storage.size_of(copy) / 1e6
    lines = ["; ".join(parts), f"copy of these images: {copy} ({size:,.1f} MB)"]
    return tuple(f"{found.name}: {line}" for line in [*lines, *found.notes, *stored.get("notes", ())])


def _describe_division(found: Found) -> str:
    """Return how the images are divided, such as "of each class 0.2 for testing, by seed 3"."""
    if found.division == Division():
        return "one fifth of each class"
    test, validation, seed = found.division
    chosen = [f"{test:g} for testing"] if any(file.split is None for file in found.files) else []
    if validation is not None:
        chosen.append(f"{validation:g} for validation")
    return f"of each class {' and '.join(chosen)}, by seed {seed}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and a noun, such as "2 images"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
