"""Convert the labels of a table to class names. A label is a class name, or a position in a list of class names."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from jaxcnn.data.imagefolder.files import check_class_name
from jaxcnn.errors import UsageError, closest, shortened

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")

Place = Callable[[int], str]
"""Function that describes the place of a row in a table for error messages, such as "line 3"."""


def name_classes(
    labels: Sequence[Any], class_names: Sequence[str] | None, title: str, place: Place
) -> tuple[list[str], tuple[str, ...]]:
    """Return the class name of each label, and all class names.

    Args:
      labels: strings, which are class names, or integers, which are positions in `class_names`.
      class_names: names of all classes. Default: the distinct labels in sorted order, which is numerical if all labels
        are numbers.
      title: name of the table, for error messages.
      place: function from the index of a row to a description of its place, such as "line 3", for error messages.

    Raises:
      UsageError: if a label is missing, has an unsupported type, or is not a class. `UsageError` is also raised if the
        name of a class is empty, occurs twice, or cannot be stored.
    """
    check_complete(labels, "label", title, place)
    if class_names is not None:
        check_names(class_names)
        known = {name: name for name in class_names} | dict(enumerate(class_names))
        return [_find(label, known, class_names, title, place(row)) for row, label in enumerate(labels)], (
            *class_names,
        )
    for row, label in enumerate(labels):
        _check_type(label, title, place(row))
    names = [str(label) for label in labels]
    distinct = {*names}
    for name in distinct:
        check_class_name(name, f"class in {title}", name)
    numbers = all(_NUMBER.fullmatch(name) for name in distinct)
    return names, tuple(sorted(distinct, key=lambda name: (float(name) if numbers else 0.0, name)))


def check_names(class_names: Sequence[str]) -> None:
    """Raise `UsageError` if class names are not distinct strings of one line."""
    if isinstance(class_names, str):
        raise UsageError(f"class_names is a string: {shortened(class_names)!r}. Give a list of names.")
    for name in class_names:
        if not isinstance(name, str):
            raise UsageError(f"class_names has a name that is not a string: {shortened(repr(name))}. Give strings.")
        check_class_name(name, "class in class_names", name)
    twice = next((name for index, name in enumerate(class_names) if name in class_names[:index]), None)
    if twice is not None:
        raise UsageError(f"class_names has the same name twice: {twice!r}. Give each class its own name.")


def check_complete(column: Sequence[Any], what: str, title: str, place: Place) -> None:
    """Raise `UsageError` if a value is None, NaN, the missing value of pandas, or an empty string."""
    for row, value in enumerate(column):
        is_nan = isinstance(value, float) and value != value
        is_empty = isinstance(value, str) and not value
        if value is None or is_nan or is_empty or type(value).__name__ in ("NAType", "NaTType"):
            raise UsageError(f"{title} has no {what} in {place(row)}. Add the {what}, or remove the row.")


def _find(label: Any, known: dict[Any, str], class_names: Sequence[str], title: str, where: str) -> str:
    """Return the class name for a label."""
    _check_type(label, title, where)
    if label in known:
        return known[label]
    if isinstance(label, str):
        near = closest(label, class_names)
        hint = f"Did you mean {near!r}?" if near else f"The classes are {shortened(', '.join(class_names))}."
        raise UsageError(f"{title} has a label in {where} that is not in class_names: {shortened(label)!r}. {hint}")
    raise UsageError(
        f"{title} has a label out of range in {where}: {label}. Use 0 to {len(class_names) - 1}, the positions in "
        "class_names."
    )


def _check_type(label: Any, title: str, where: str) -> None:
    if not isinstance(label, str | int):
        raise UsageError(
            f"{title} has a label in {where} that is neither a string nor an integer: {shortened(repr(label))}. "
            "Convert the labels to class names, or to positions in class_names."
        )
