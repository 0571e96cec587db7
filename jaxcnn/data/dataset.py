"""The interface of a dataset: examples that are loaded by their index, as batches of arrays."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxcnn.array_types import Num
from jaxcnn.data import decode
from jaxcnn.data.decode import Geometry
from jaxcnn.data.order import choose_validation
from jaxcnn.data.statistics import STATISTICS, Statistics, measure
from jaxcnn.data.threads import count_at_once, map_in_threads
from jaxcnn.errors import UsageError, closest, unknown_name

Batch = dict[str, Any]
"""Examples: a dict of arrays, or of trees of arrays, with a leading axis of N examples.

Batches of labeled images have `image`, uint8 or float32 `[N, H, W, C]`, and `label`, int32 `[N]`, or float32
`[N, classes]` for multi-hot and soft labels.
"""

SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}

UNNAMED = ("arrays", "table", "folder", "source", "batches")
"""Names of data that only a Python object describes: `open_dataset` does not know them. Each is the name of a function
`from_NAME`."""


@dataclass(frozen=True)
class Dataset:
    """Examples that are loaded by their index: the base class of all datasets.

    A subclass implements `load` and `labels_at`, and takes the position of an example in its files by `stored_at`.

    Attributes:
      name: TFDS name, `imagefolder:PATH`, `npz:PATH`, `csv:PATH`, or the kind of the user's own data, such as "arrays".
      image_shape: `(H, W, C)`. Height and width are None if images differ in size.
      class_names: name of each class, in the order of the labels. Empty if labels are not classes.
      examples: number of examples in the splits "train", "test" and, if there is one, "validation".
      notes: notes for the user about the data, one line each.
      directory: folder of the files, or None.
      pixel_range: 255.0 if images are uint8. 1.0 if they are float32, whose values are used as they are.
      random_access: whether `load` reads any example at any time.

    Raises:
      UsageError: from the methods that read examples, if an example cannot be read.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    notes: tuple[str, ...] = ()
    directory: Path | None = None
    pixel_range: float = 255.0
    random_access: bool = True
    _positions: tuple[int, ...] | None = None  # position of each stored label in `class_names`; None if they are equal
    _division: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict, repr=False)  # see `stored_at`
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)  # labels and statistics
    _decoded: dict[tuple[str, Geometry], Batch] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """Return the number of classes; 0 if labels are not classes."""
        return len(self.class_names)

    @property
    def sizes_differ(self) -> bool:
        """Return whether images differ in size, so that a batch needs a common image size."""
        return None in self.image_shape

    @property
    def chooses_test_images(self) -> bool:
        """Return whether the test images were chosen among those of each class, as the folder has no test set."""
        return False

    @property
    def statistics_folder(self) -> Path | None:
        """Return the folder to keep measured statistics in, or None if they are those of a part of its examples."""
        return None if self._division else self.directory

    def load(
        self,
        split: str,
        indices: Sequence[int],
        geometry: Geometry | None = None,
        *,
        channels: int | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
    ) -> Batch:
        """Read, decode and stack the examples at `indices` of a split. Thread-safe.

        Args:
          split: "train", "validation" or "test".
          indices: positions in the split.
          geometry: how images are brought to one size. Default: `self.geometry()`, which keeps their size.
          channels: number of channels of the images. Default: that of `image_shape`.
          random_box: distribution of a random part of each image. By default the part is the center crop.
          randoms: a random generator for each example. By default the part is the center crop.

        Returns:
          A batch of the length of `indices`, with all leaves of the examples. Images are uint8 or float32
          `[N, H, W, C]`.

        Raises:
          UsageError: if an example cannot be read, or images differ in size and `geometry` is None.
        """
        raise NotImplementedError

    def labels_at(self, split: str, indices: Sequence[int]) -> Num[np.ndarray, "n ..."] | None:
        """Return the labels of some examples, without decoding images: int32 `[N]`, float32 `[N, classes]`, or None."""
        raise NotImplementedError

    def labels(self, split: str) -> Num[np.ndarray, "n ..."] | None:
        """Return all labels of a split: int32 `[N]`, float32 `[N, classes]`, or None without labels. It is cached."""
        key = "labels", split
        if key not in self._cache:
            kept = next((batch for (of, _), batch in self._decoded.items() if of == split), None)
            every = range(self.examples[split])
            self._cache[key] = self.labels_at(split, every) if kept is None else kept.get("label")
        return self._cache[key]

    def decoded(self, split: str, geometry: Geometry | None = None) -> Batch:
        """Load all examples of a split, in threads. The result is cached.

        Args:
          split: "train", "validation" or "test".
          geometry: how images are brought to one size. Default: `self.geometry()`, which keeps their size.

        Raises:
          UsageError: if an example cannot be read, or images differ in size and `geometry` is None.
        """
        geometry = geometry or self.geometry()
        if (split, geometry) not in self._decoded:
            self._decoded[split, geometry] = self._load_all(split, geometry)
        return self._decoded[split, geometry]

    def _load_all(self, split: str, geometry: Geometry) -> Batch:
        count, at_once = self.examples[split], count_at_once(geometry.size)
        # The first part is loaded alone: it opens the files, and has the shapes of all leaves.
        first = self.load(split, range(min(at_once, count)), geometry)
        if count <= at_once:
            return first
        whole = jax.tree.map(lambda part: np.empty((count, *part.shape[1:]), part.dtype), first)
        load = functools.partial(self.load, split, geometry=geometry)
        rest = (range(start, min(start + at_once, count)) for start in range(at_once, count, at_once))
        start = 0
        for part in _chain(first, map_in_threads(load, rest)):
            length = len(jax.tree.leaves(part)[0])
            jax.tree.map(lambda array, rows, at=slice(start, start + length): array.__setitem__(at, rows), whole, part)
            start += length
        return whole

    def read(
        self, split: str, geometry: Geometry | None = None
    ) -> tuple[Num[np.ndarray, "n h w c"], Num[np.ndarray, "n ..."]]:
        """Return all images `[N, H, W, C]` and labels of a split, as `decoded` does.

        Raises:
          UsageError: as `decoded`.
        """
        whole = self.decoded(split, geometry)
        return whole["image"], whole["label"]

    def example_bytes(self, geometry: Geometry) -> int:
        """Return the number of bytes of a decoded example: of all its leaves."""
        assert geometry.size is not None
        height, width = geometry.size
        return height * width * self.image_shape[-1] * (1 if self.pixel_range == 255.0 else 4)

    def geometry(
        self,
        image_size: int | tuple[int, int] | None = None,
        resize: Literal["shorter", "stretch"] | int = "shorter",
        crop_fraction: float | None = None,
        background: Literal["white", "black"] = "white",
    ) -> Geometry:
        """Return the geometry that brings all images to one size.

        Args:
          image_size: height and width of the result, or one number for both. Default: the size of all images.
          resize, background: see `Geometry`.
          crop_fraction: see `Geometry`. Default: 1 if all images have this size already, else `decode.CROP_FRACTION`.

        Raises:
          UsageError: if images differ in size and `image_size` is None, or `resize` cannot be used with the other
            values.
        """
        height, width, _ = self.image_shape
        if image_size is None:
            if height is None or width is None:
                raise UsageError(
                    f"images of dataset {self.name!r} differ in size. Set a common size with --image-size."
                )
            size = (height, width)
        else:
            size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        if isinstance(resize, int):
            if resize < max(size):
                raise UsageError(f"resize is less than the image size {max(size)}: {resize}. Use {max(size)} or more.")
            if crop_fraction is not None:
                raise UsageError("resize as a number and crop_fraction are mutually exclusive. Give one of them.")
        fraction = crop_fraction or (1.0 if size == (height, width) else decode.CROP_FRACTION)
        return Geometry(size, resize, fraction, background)

    def keeps_pixels(self, geometry: Geometry) -> bool:
        """Return whether the geometry leaves every image of this dataset unchanged."""
        if geometry.size is None:
            return True
        whole = geometry.resize in ("shorter", "stretch") and geometry.crop_fraction == 1.0
        return whole and geometry.size == self.image_shape[:2]

    def with_classes(self, class_names: Sequence[str]) -> "Dataset":
        """Return the same images with labels that are positions in `class_names`, mapped by the names of the classes.

        Classes without images are noted.

        Raises:
          UsageError: if the dataset has a class that is not in `class_names`, or its labels are not classes.
        """
        class_names = tuple(class_names)
        if class_names == self.class_names:
            return self
        if not self.class_names:
            raise UsageError(
                f"labels of dataset {self.name!r} are not classes, but the run knows {_listed(class_names)}. "
                "Give data with one of these classes for each image."
            )
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            missing = [name for name in class_names if name not in self.class_names]
            near = closest(unknown[0], missing)
            hint = f" Did you rename {near!r}?" if near else ""
            raise UsageError(
                f"dataset {self.name!r} has classes that the run does not know: {', '.join(map(repr, unknown))}. "
                f"The run knows {_listed(class_names)}.{hint}"
            )
        notes = self.notes
        missing = [name for name in class_names if name not in self.class_names]
        if missing:
            notes += (f"dataset {self.name!r} has no images of {_listed(missing)}",)
        positions = tuple(class_names.index(name) for name in self.class_names)
        if self._positions is not None:
            positions = tuple(positions[position] for position in self._positions)
        return replace(self, class_names=class_names, notes=notes, _positions=positions, _cache={}, _decoded={})

    def with_validation(self, part: float | str, seed: int) -> "Dataset":
        """Return the dataset with a validation split.

        Args:
          part: fraction of the training examples to hold out, between 0 and 1, chosen at random from each class; or
            the name of a split of the source, whose examples are taken out of the training split if they are in it.
          seed: seed of the choice. The same examples are held out for the same seed.

        Returns:
          The dataset, in which `examples` has "validation".

        Raises:
          UsageError: if the fraction is out of range or too small, the split is unknown, or the dataset has a
            validation split already.
        """
        if "validation" in self.examples:
            if part == "validation":
                return self
            raise UsageError(
                f"dataset {self.name!r} has a validation split already, of {self.examples['validation']:,} examples. "
                "Set validation to 'validation', or leave that split out."
            )
        if isinstance(part, str):
            return self._with_validation_split(part)
        count = self.examples["train"]
        chosen = choose_validation(count, self._labels_to_divide(), part, seed)
        held_out = np.zeros(count, bool)
        held_out[chosen] = True
        train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        return self._divided({"train": ("train", train), "validation": ("train", validation)})

    def _with_validation_split(self, part: str) -> "Dataset":
        """Return the dataset with a split of its source as validation split."""
        raise unknown_name(f"split of dataset {self.name!r}", part, self.examples)

    def _labels_to_divide(self) -> np.ndarray | None:
        """Return the class of each training example, `[N]`, or None to divide them without regard to their class."""
        labels = self.labels("train")
        return labels if labels is not None and labels.ndim == 1 and self.class_names else None

    def _divided(self, division: Mapping[str, tuple[str, np.ndarray]]) -> Any:
        """Return the dataset with splits that are parts of its stored splits: the split and the positions in it."""
        examples = {**self.examples, **{split: len(places) for split, (_, places) in division.items()}}
        return replace(self, examples=examples, _division={**self._division, **division}, _cache={}, _decoded={})

    def stored_at(self, split: str, indices: Sequence[int]) -> tuple[str, list[int]]:
        """Return the stored split, and the positions in it, of examples of a split.

        They differ from `split` and `indices` if validation examples were held out (`with_validation`): a training
        example then keeps its position among all training examples that are stored.

        Args:
          split: "train", "validation" or "test".
          indices: positions in the split.

        Raises:
          UsageError: if the dataset has no such split.
        """
        if split not in self.examples:
            raise unknown_name(f"split of dataset {self.name!r}", split, self.examples)
        if split not in self._division:
            return split, [int(index) for index in indices]
        stored, places = self._division[split]
        return stored, places[np.asarray(indices, np.int64)].tolist()

    def _with_positions(self, labels: np.ndarray) -> np.ndarray:
        """Return stored labels, int32 `[N]` or float32 `[N, classes]`, as positions in `class_names`."""
        if self._positions is None:
            return labels
        if labels.ndim == 1:
            return np.asarray(self._positions, np.int32)[labels]
        placed = np.zeros((len(labels), self.num_classes), labels.dtype)
        placed[:, list(self._positions)] = labels
        return placed

    def damaged(self, error: BaseException) -> UsageError:
        """Return the error to raise when reading this dataset fails with `error`."""
        return UsageError(f"dataset {self.name!r} cannot be read: {first_line(error)}. Correct the data.")

    def statistics(self, geometry: Geometry | None = None) -> Statistics:
        """Return the recorded statistics of the training split, or measure them.

        Args:
          geometry: how images are brought to one size before they are measured. Default: they keep their size.
        """
        return STATISTICS.get(self.name) or self.measure(geometry)

    def measure(self, geometry: Geometry | None = None) -> Statistics:
        """Measure the statistics of the training split; see `jaxcnn.data.statistics.measure`. The result is cached."""
        key = "statistics", geometry
        if key not in self._cache:
            self._cache[key] = measure(self, geometry)
        return self._cache[key]

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return what identifies the data.

        Args:
          contents: whether to read and hash all contents.

        Returns:
          For each part of the data: the number of `images`, a hash `sizes` of what identifies them, and a hash of their
          `contents` or None.
        """
        raise NotImplementedError


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest


def _listed(names: Sequence[str], most: int = 10) -> str:
    """Return names, separated by commas; the first ones and a count if there are many."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
