"""Read the user's source: any object with `len(source)` and `source[i]`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxcnn.data.dataset import SPLIT_NAMES, first_line
from jaxcnn.data.sources.elements import Example, Fields, Form, form_of, read_element
from jaxcnn.data.threads import map_in_threads
from jaxcnn.errors import UsageError, printable

SAMPLES = 64
"""Maximum number of evenly spaced examples of a source that are read to identify it and to estimate its size."""


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads the examples of one split from the user's source.

    Attributes:
      source: the user's object.
      split: "train", "validation" or "test".
      length: number of examples when the source was opened.
      fields: see `read_element`.
      kept: all examples if they are kept in memory, otherwise None.
    """

    source: Any
    split: str
    length: int
    fields: Fields | None = None
    kept: tuple[Example, ...] | None = None

    @property
    def what(self) -> str:
        """Return the name of the source for messages."""
        return f"the {SPLIT_NAMES[self.split]} source"

    def read(self, index: int) -> Example:
        """Return the example at `index`.

        Raises:
          UsageError: if the source raises an error or has changed its length, or the example cannot be used.
        """
        if self.kept is not None:
            return self.kept[index]
        self.require_length()
        try:
            return read_element(self.source[index], self.fields, self.what, index)
        except UsageError:
            raise
        except Exception as error:  # raised by the user's code
            raise self.failure(index, error) from error

    def failure(self, index: int, error: BaseException) -> UsageError:
        """Return the error to raise when reading an example fails with `error`."""
        said = printable(first_line(error))
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return UsageError(
            f"example {index} of {self.what} cannot be read: {name}{said}. Correct or remove this example."
        )

    def require_length(self) -> None:
        """Raise `UsageError` if the length of the source has changed since the source was opened."""
        now = len(self.source)
        if now != self.length:
            raise UsageError(
                f"{self.what} has changed its length since it was opened: {now:,} instead of {self.length:,} examples. "
                "Give a source of constant length."
            )

    def form(self, index: int, example: Example) -> Form:
        """Return the size, channels and type of the image of an example.

        Raises:
          UsageError: if the image is damaged.
        """
        try:
            return form_of(example.image)
        except ValueError as error:
            raise self.failure(index, error) from error

    def map(self, function: Callable[[int, Example], Any], indices: Iterable[int]) -> Iterator[Any]:
        """Yield `function(index, example)` for each index. Threads read the examples."""
        return map_in_threads(lambda index: function(index, self.read(index)), indices)

    def sample_indices(self) -> list[int]:
        """Return the positions of at most `SAMPLES` evenly spaced examples."""
        return np.linspace(0, self.length - 1, min(SAMPLES, self.length)).astype(int).tolist()

    def keeping(self, examples: Sequence[Example]) -> "Reader":
        """Return a copy of this reader that keeps all examples in memory."""
        return replace(self, kept=tuple(examples))


def open_reader(source: Any, split: str, fields: Fields | None) -> Reader:
    """Return a reader of a source.

    Raises:
      UsageError: if the object has no `len` or no `[i]`, or is empty.
    """
    what = f"the {SPLIT_NAMES[split]} source"
    if isinstance(source, Mapping):
        listed = ", ".join(map(repr, source)) or "nothing"
        raise UsageError(f"{what} is a dict of {listed}. Give one of the values of the dict.")
    if isinstance(source, str | bytes) or not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        raise UsageError(
            f"{what} does not support len(source) and source[i]: {type(source).__name__}. "
            "Give a sequence of examples, or use from_batches."
        )
    if isinstance(source, tuple) and len(source) == 2 and all(hasattr(part, "shape") for part in source):
        raise UsageError(f"{what} is a pair of arrays. Use from_arrays.")
    try:
        length = len(source)
    except TypeError as error:
        raise UsageError(f"{what} has no length: {first_line(error)}. Use from_batches.") from None
    if length < 1:
        raise UsageError(f"{what} is empty. Give at least one example.")
    source = _without_decoding(source, "image" if fields is None else fields.get("image"))
    return Reader(source, split, length, fields)


def _is_plain_table(source: Any) -> bool:
    """Return whether a source is a Hugging Face dataset without a format or transform, which would change examples."""
    if not hasattr(source, "features") or not hasattr(source, "cast_column"):
        return False
    form = getattr(source, "format", None)
    return isinstance(form, Mapping) and form.get("type") is None


def _without_decoding(source: Any, field: Any) -> Any:
    """Return a Hugging Face dataset that does not decode its image files, because this package decodes them.

    Return any other source unchanged.
    """
    if not _is_plain_table(source) or field not in source.features:
        return source
    feature = source.features[field]
    if type(feature).__name__ != "Image" or not getattr(feature, "decode", False):
        return source
    return source.cast_column(field, type(feature)(decode=False))


def label_column(reader: Reader, samples: Mapping[int, Example]) -> Any:
    """Return all labels of a source that stores its labels separately, or None.

    A Hugging Face dataset stores labels in a column. A torchvision dataset has the attribute `targets` or `labels`. The
    stored labels are used only if they equal the labels of the examples in `samples`.
    """
    source, field = reader.source, "label" if reader.fields is None else reader.fields.get("label")
    column = None
    if _is_plain_table(source) and field in source.features:
        column = source[field]
    elif getattr(source, "target_transform", None) is None:
        found = (getattr(source, name, None) for name in ("targets", "labels"))
        column = next((values for values in found if isinstance(values, Sized) and len(values) == reader.length), None)
    if column is None:
        return None
    column = np.asarray(column)
    same = column.ndim == 1 and all(
        np.ndim(example.label) == 0 and column[index] == example.label for index, example in samples.items()
    )
    return column if same else None


def class_names_of(source: Any, field: Any) -> tuple[str, ...] | None:
    """Return the class names that a source provides, or None.

    Datasets of Hugging Face and TFDS provide `features[field].names`. Datasets of torchvision provide `classes`.
    """
    about = getattr(source, "dataset_info", source)
    features = getattr(about, "features", None)
    if features is not None:
        try:
            names = getattr(features[field], "names", None)
        except (KeyError, TypeError):
            names = None
    else:
        names = getattr(source, "classes", None)
    if isinstance(names, Sequence) and not isinstance(names, str) and names:
        return tuple(str(name) for name in names)
    return None
