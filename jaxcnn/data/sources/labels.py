"""Read the labels of the user's own data: class numbers, class names, or a value for each class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.dataset import SPLIT_NAMES
from jaxcnn.errors import UsageError, closest, shortened

MOST_NAMED = 5
"""Maximum number of class names in an error message."""


def read_labels(
    given: Mapping[str, Any], class_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of all splits, and the names of the classes.

    Args:
      given: labels of each split: integers `[N]` or `[N, 1]`, strings `[N]`, or multi-hot or soft labels
        `[N, classes]`, with values from 0 to 1.
      class_names: name of each class. Default: the distinct strings in sorted order, or the numbers up to the largest
        label.

    Returns:
      Labels of each split, int32 `[N]` or float32 `[N, classes]`; and the class names.

    Raises:
      UsageError: if labels have an unsupported type or shape, labels are out of range, or a class has no training
        examples.
    """
    if class_names is not None:
        class_names = _check_names(class_names)
    arrays = {split: _as_array(values, split, class_names) for split, values in given.items()}
    kinds = {split: _kind(array) for split, array in arrays.items()}
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            raise UsageError(
                f"labels of the {SPLIT_NAMES[split]} split are {kind}, but labels of the training split are "
                f"{kinds['train']}. Give labels of one kind."
            )
    read = {"strings": _from_strings, "integers": _from_integers}.get(kinds["train"], _from_values)
    labels, names = read(arrays, class_names)
    _require_training_examples(labels["train"], names)
    return labels, names


def _check_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(class_names)
    wrong = next((name for name in names if not isinstance(name, str) or not name), None)
    if isinstance(class_names, str) or not names or wrong is not None:
        raise UsageError(f"class_names is not a list of names: {shortened(class_names)}. Give a string for each class.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"class_names has the same name twice: {twice!r}. Give each class its own name.")
    return names


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind == "U":
        return "strings"
    return "integers" if array.ndim == 1 else f"values of {array.shape[1]} classes"


def _as_array(values: Any, split: str, class_names: Sequence[str] | None) -> np.ndarray:
    """Return the labels of a split: strings `[N]`, int64 `[N]` or float32 `[N, classes]`."""
    where = f"labels of the {SPLIT_NAMES[split]} split"
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise UsageError(f"{where} have different shapes: {error}. Give one label for each image.") from None
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if array.dtype.kind in "UO" and array.ndim == 1 and all(isinstance(value, str) for value in array):
        return array.astype(np.str_)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise UsageError(f"{where} are of type {array.dtype}. Give integers, strings, or values for each class.")
    if array.ndim == 2 and array.shape[1] == 1 and len(class_names or ()) != 1:
        array = array[:, 0]  # Keras stores labels as [N, 1]
    if array.ndim not in (1, 2):
        raise UsageError(f"{where} have the shape {list(array.shape)}. Give labels [N], or [N, classes].")
    if array.ndim == 2:
        array = array.astype(np.float32)
        wrong = np.flatnonzero(~((array >= 0) & (array <= 1)).all(1))
        if len(wrong):
            raise UsageError(
                f"label of example {wrong[0]} of the {SPLIT_NAMES[split]} split is out of range: "
                f"{shortened(array[wrong[0]].tolist())}. Use values from 0 to 1 for each class, or another key than "
                "'label' for targets that are not classes."
            )
        return array
    array = array if array.dtype.kind in "biu" else array.astype(np.float64)
    wrong = np.flatnonzero(array != np.floor(array))
    if len(wrong):
        raise UsageError(
            f"label of example {wrong[0]} of the {SPLIT_NAMES[split]} split is not an integer: {array[wrong[0]]}. "
            "Use class numbers, or another key than 'label' for targets that are not classes."
        )
    return array.astype(np.int64)


def _from_strings(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    names = tuple(class_names or sorted(set(np.concatenate(list(arrays.values())).tolist())))
    position = {name: index for index, name in enumerate(names)}
    labels = {}
    for split, array in arrays.items():
        unknown = next((index for index, name in enumerate(array.tolist()) if name not in position), None)
        if unknown is not None:
            near = closest(array[unknown], names)
            hint = f"Did you mean {near!r}?" if near else "Add it to class_names."
            raise UsageError(
                f"label of example {unknown} of the {SPLIT_NAMES[split]} split is not in class_names: "
                f"{shortened(array[unknown])!r}. {hint}"
            )
        labels[split] = np.array([position[name] for name in array.tolist()], np.int32)
    return labels, names


def _from_integers(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    count = len(class_names) if class_names else 1 + max(int(array.max(initial=0)) for array in arrays.values())
    for split, array in arrays.items():
        wrong = np.flatnonzero((array < 0) | (array >= count))
        if len(wrong):
            raise UsageError(
                f"label of example {wrong[0]} of the {SPLIT_NAMES[split]} split is out of range: {array[wrong[0]]}. "
                f"Use labels from 0 to {count - 1}, one for each of the {count} classes."
            )
        if count > max(len(part) for part in arrays.values()) and not class_names:
            raise UsageError(
                f"the largest label, {count - 1}, is more than the number of examples. "
                "Number the classes from 0 without gaps, or "
                " use another key than 'label' for targets that are not classes."
            )
    names = tuple(class_names) if class_names else tuple(map(str, range(count)))
    return {split: array.astype(np.int32) for split, array in arrays.items()}, names


def _from_values(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    count = arrays["train"].shape[1]
    if class_names is not None and len(class_names) != count:
        raise UsageError(
            f"labels have {count} classes, but class_names has {len(class_names)} names. Give one name for each class."
        )
    return dict(arrays), tuple(class_names) if class_names else tuple(map(str, range(count)))


def _require_training_examples(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raise `UsageError` if a class has no training examples."""
    counts = np.bincount(labels, minlength=len(class_names)) if labels.ndim == 1 else labels.sum(0)
    missing = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if missing:
        named = ", ".join(map(repr, missing[:MOST_NAMED]))
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        kind = "class has" if len(missing) == 1 else "classes have"
        raise UsageError(
            f"{len(missing)} {kind} no training examples: {named}{more}. Number the classes from 0 without gaps, add "
            "examples, or leave these classes out of class_names."
        )
