"""Base class of datasets: load examples by their index, as batches of arrays."""

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
"""Batch of N examples: a dict whose values are arrays, or trees of arrays, with a leading axis of length N.

A batch of labeled images has the keys `image` and `label`. Images are uint8 or float32 `[N, H, W, C]`. Labels are int32
`[N]`, or float32 `[N, classes]` for multi-hot and soft labels.
"""

SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}

UNNAMED = ("arrays", "table", "folder", "source", "batches")
"""Names of datasets that exist only as Python objects, so `open_dataset` cannot open them.

The function `from_NAME` creates the dataset, such as `from_arrays` for "arrays".
"""


@dataclass(frozen=True)
class Dataset:
    """Base class of all datasets: examples that are loaded by their index.

    A subclass implements `load` and `labels_at`, which use `stored_at` to find the stored position of an example.

    Attributes:
      name: name of the dataset: its TFDS name, `imagefolder:PATH`, `npz:PATH` or `csv:PATH`. For the user's own data,
        the name is the kind of data, such as "arrays".
      image_shape: shape `(H, W, C)` of the images. Height and width are None if images differ in size.
      class_names: name of each class, in the order of the labels; empty if labels are not classes.
      examples: number of examples in each split: "train", "test" and optionally "validation".
      notes: messages for the user about the data, one line each.
      directory: folder of the files of the dataset, or None if it has no folder.
      pixel_range: 255.0 if images are uint8, or 1.0 if images are float32. Float values are used unchanged.
      random_access: whether `load` can read examples in any order.

    Raises:
      UsageError: raised by the methods that read examples, if an example cannot be read.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    notes: tuple[str, ...] = ()
    directory: Path | None = None
    pixel_range: float = 255.0
    random_access: bool = True
    _positions: tuple[int, ...] | None = None  # position of each stored label in `class_names`; None: unchanged
    _division: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict, repr=False)  # see `stored_at`
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)  # cached labels and statistics
    _decoded: dict[tuple[str, Geometry], Batch] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """Return the number of classes; 0 if labels are not classes."""
        return len(self.class_names)

    @property
    def sizes_differ(self) -> bool:
        """Return whether images differ in size, so that batches need a common image size."""
        return None in self.image_shape

    @property
    def chooses_test_images(self) -> bool:
        """Return whether the test images were selected automatically, because the folder has no test set."""
        return False

    @property
    def statistics_folder(self) -> Path | None:
        """Return the folder that stores measured statistics.

        Return None if the dataset has no folder or has held-out validation examples.
        """
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
        """Read, decode and stack the examples at `indices` of a split. This method is thread-safe.

        Args:
          split: "train", "validation" or "test".
          indices: positions of the examples in the split.
          geometry: how to resize and crop the images. Default: `self.geometry()`, which keeps the size of the images.
          channels: number of channels of the images. Default: the number of channels in `image_shape`.
          random_box: distribution of the random crop of each image. Default: the center crop.
          randoms: one random generator for each example, to draw the crop of its image. Default: the center crop.

        Returns:
          A batch with all arrays of the examples, in the order of `indices`. Images have the shape
          `[N, H, W, C]` and the dtype uint8 or float32.

        Raises:
          UsageError: if an example cannot be read, or images differ in size and `geometry` is None.
        """
        raise NotImplementedError

    def labels_at(self, split: str, indices: Sequence[int]) -> Num[np.ndarray, "n ..."] | None:
        """Return the labels of the examples at `indices` of a split, without decoding images.

        Returns:
          Labels, int32 `[N]` or float32 `[N, classes]`, or None if the dataset has no labels.
        """
        raise NotImplementedError

    def labels(self, split: str) -> Num[np.ndarray, "n ..."] | None:
        """Return all labels of a split. The result is cached.

        Returns:
          Labels, int32 `[N]` or float32 `[N, classes]`, or None if the dataset has no labels.
        """
        key = "labels", split
        if key not in self._cache:
            kept = next((batch for (of, _), batch in self._decoded.items() if of == split), None)
            every = range(self.examples[split])
            self._cache[key] = self.labels_at(split, every) if kept is None else kept.get("label")
        return self._cache[key]

    def decoded(self, split: str, geometry: Geometry | None = None) -> Batch:
        """Load all examples of a split in several threads. The result is cached.

        Args:
          split: "train", "validation" or "test".
          geometry: how to resize and crop the images. Default: `self.geometry()`, which keeps the size of the images.

        Raises:
          UsageError: if an example cannot be read, or images differ in size and `geometry` is None.
        """
        geometry = geometry or self.geometry()
        if (split, geometry) not in self._decoded:
            self._decoded[split, geometry] = self._load_all(split, geometry)
        return self._decoded[split, geometry]

    def _load_all(self, split: str, geometry: Geometry) -> Batch:
        count, at_once = self.examples[split], count_at_once(geometry.size)
        # Load the first part before the threads start: this opens the files, and shows the shapes of all arrays.
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
        """Return all images `[N, H, W, C]` and all labels of a split; see `decoded`.

        Raises:
          UsageError: if an example cannot be read, or images differ in size and `geometry` is None.
        """
        whole = self.decoded(split, geometry)
        return whole["image"], whole["label"]

    def example_bytes(self, geometry: Geometry) -> int:
        """Return the number of bytes of all arrays of one decoded example."""
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
        """Return the geometry that resizes and crops all images to one size.

        Args:
          image_size: height and width of the result, or one number for both. Default: the size of the images, if all
            images have the same size.
          resize, background: see `Geometry`.
          crop_fraction: see `Geometry`. Default: 1 if all images already have the size `image_size`, otherwise
            `decode.CROP_FRACTION`.

        Raises:
          UsageError: if images differ in size and `image_size` is None. `UsageError` is also raised if `resize` is a
            number that is less than the image size, or if `resize` is a number and `crop_fraction` is given.
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
                raise UsageError("resize as a number and crop_fraction are mutually exclusive. Omit one of the two.")
        fraction = crop_fraction or (1.0 if size == (height, width) else decode.CROP_FRACTION)
        return Geometry(size, resize, fraction, background)

    def keeps_pixels(self, geometry: Geometry) -> bool:
        """Return whether the geometry leaves every image of this dataset unchanged."""
        if geometry.size is None:
            return True
        whole = geometry.resize in ("shorter", "stretch") and geometry.crop_fraction == 1.0
        return whole and geometry.size == self.image_shape[:2]

    def with_classes(self, class_names: Sequence[str]) -> "Dataset":
        """Return the dataset with its labels renumbered to the positions of the class names in `class_names`.

        The attribute `notes` of the result lists the classes that have no images.

        Raises:
          UsageError: if the dataset has a class that is not in `class_names`, or its labels are not classes.
        """
        class_names = tuple(class_names)
        if class_names == self.class_names:
            return self
        if not self.class_names:
            raise UsageError(
                f"labels of dataset {self.name!r} are not classes. The classes of the run are {_listed(class_names)}. "
                "Give data with one of these classes for each image."
            )
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            missing = [name for name in class_names if name not in self.class_names]
            near = closest(unknown[0], missing)
            hint = f" Did you rename {near!r}?" if near else ""
            raise UsageError(
                f"dataset {self.name!r} has classes that the run does not have: {', '.join(map(repr, unknown))}. "
                f"The classes of the run are {_listed(class_names)}.{hint}"
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
        """Return a copy of the dataset with a validation split.

        Args:
          part: fraction of the training examples to hold out, between 0 and 1, or the name of an existing split, such
            as a TFDS split. For a fraction, examples are chosen at random from each class. If a named split contains
            training examples, they are removed from the training split.
          seed: random seed of the choice of examples. Two calls with the same seed hold out the same examples.

        Returns:
          The dataset, whose attribute `examples` has the key "validation".

        Raises:
          UsageError: if the fraction is out of range or too small, the split is unknown, or the dataset already has a
            validation split.
        """
        if "validation" in self.examples:
            if part == "validation":
                return self
            raise UsageError(
                f"dataset {self.name!r} already has a validation split of {self.examples['validation']:,} examples. "
                "Set validation to 'validation', or open the dataset without its validation split."
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
        """Return the dataset with its existing split `part` as the validation split."""
        raise unknown_name(f"split of dataset {self.name!r}", part, self.examples)

    def _labels_to_divide(self) -> np.ndarray | None:
        """Return the class of each training example, `[N]`, or None to hold out examples without regard to class."""
        labels = self.labels("train")
        return labels if labels is not None and labels.ndim == 1 and self.class_names else None

    def _divided(self, division: Mapping[str, tuple[str, np.ndarray]]) -> Any:
        """Return the dataset with new splits.

        `division` maps the name of each new split to the name of a stored split, and to positions in the stored split.
        """
        examples = {**self.examples, **{split: len(places) for split, (_, places) in division.items()}}
        return replace(self, examples=examples, _division={**self._division, **division}, _cache={}, _decoded={})

    def stored_at(self, split: str, indices: Sequence[int]) -> tuple[str, list[int]]:
        """Return the stored split of the examples at `indices`, and their positions in the stored split.

        The stored split may differ from `split` if `with_validation` has held out examples. For example, a held-out
        fraction of the training examples stays in the stored split "train".

        Args:
          split: "train", "validation" or "test".
          indices: positions in the split.

        Raises:
          UsageError: if the dataset has no split with this name.
        """
        if split not in self.examples:
            raise unknown_name(f"split of dataset {self.name!r}", split, self.examples)
        if split not in self._division:
            return split, [int(index) for index in indices]
        stored, places = self._division[split]
        return stored, places[np.asarray(indices, np.int64)].tolist()

    def _with_positions(self, labels: np.ndarray) -> np.ndarray:
        """Convert stored labels, int32 `[N]` or float32 `[N, classes]`, to positions in `class_names`."""
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
        """Return the mean and standard deviation of the training pixels: recorded in `STATISTICS`, or measured.

        Args:
          geometry: how to resize and crop images before the measurement. Default: images keep their size.
        """
        return STATISTICS.get(self.name) or self.measure(geometry)

    def measure(self, geometry: Geometry | None = None) -> Statistics:
        """Measure the statistics of the training split; see `jaxcnn.data.statistics.measure`. The result is cached."""
        key = "statistics", geometry
        if key not in self._cache:
            self._cache[key] = measure(self, geometry)
        return self._cache[key]

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return hashes that identify the data, to detect data that has changed.

        Args:
          contents: whether to read and hash all contents.

        Returns:
          A dict for each part of the data. `images` is the number of images. `sizes` is a hash of the names and sizes
          of the files. `contents` is a hash of the contents of the files, or None if this hash is not known.
        """
        raise NotImplementedError


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest


def _listed(names: Sequence[str], most: int = 10) -> str:
    """Join names by commas. If there are more than `most` names, list the first `most` names and count the rest."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
