"""Datasets of arrays in memory."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxcnn.data import decode
from jaxcnn.data.dataset import SPLIT_NAMES, Batch, Dataset, first_line
from jaxcnn.data.decode import Geometry
from jaxcnn.data.sources.labels import read_labels
from jaxcnn.data.sources.pixels import canonical, check_image_axes, check_pixels, fit_images, to_array
from jaxcnn.errors import UsageError, closest

MOST_HASHED = 1 << 30
"""Maximum number of bytes of an array to hash. If the array is larger, only a part of this size is hashed."""

HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class ArrayDataset(Dataset):
    """Examples in memory, opened by `from_arrays`."""

    _arrays: Mapping[str, Batch] = field(default_factory=dict, repr=False)  # all examples of each stored split

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
        """Return the examples at `indices` of a split; see `Dataset.load`."""
        geometry, channels = geometry or self.geometry(), channels or self.image_shape[-1]
        stored, places = self.stored_at(split, indices)
        rows = np.asarray(places, np.int64)
        batch = jax.tree.map(lambda array: array[rows], self._arrays[stored])
        if random_box is not None or not self.keeps_pixels(geometry) or channels != self.image_shape[-1]:
            try:
                batch["image"] = fit_images(batch["image"], geometry, channels, random_box, randoms)
            except ValueError as error:
                raise self.damaged(error) from error
        if "label" in batch:
            batch["label"] = self._with_positions(batch["label"])
        return batch

    def _load_all(self, split: str, geometry: Geometry) -> Batch:
        if split in self._division or self._positions is not None or not self.keeps_pixels(geometry):
            return super()._load_all(split, geometry)
        return self._arrays[split]

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray | None:
        """Return the labels of the examples at `indices`: int32 `[N]`, float32 `[N, classes]`, or None."""
        stored, places = self.stored_at(split, indices)
        labels = self._arrays[stored].get("label")
        return None if labels is None else self._with_positions(labels[np.asarray(places, np.int64)])

    def example_bytes(self, geometry: Geometry) -> int:
        """Return the number of bytes of all arrays of one example, with the image size of the geometry."""
        others = {key: leaf for key, leaf in self._arrays["train"].items() if key != "image"}
        return super().example_bytes(geometry) + sum(leaf[:1].nbytes for leaf in jax.tree.leaves(others))

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return the number of examples and hashes of all arrays. Arrays are always hashed: `contents` has no effect.

        If an array has more than 1 GiB, evenly spaced parts of 1 MiB are hashed, 1 GiB in total.

        Returns:
          A dict for each split and key. `images` is the number of examples. `sizes` is a hash of shapes and types.
          `contents` is a hash of the values. `files` is False, because the data are not files.
        """
        key = "fingerprint"
        if key not in self._cache:
            parts = {}
            for split, batch in self._arrays.items():
                for name, tree in batch.items():
                    leaves = jax.tree.leaves(tree)
                    shapes = [(leaf.shape, leaf.dtype.str) for leaf in leaves]
                    parts[f"the {SPLIT_NAMES[split]} array {name!r}"] = {
                        "images": len(leaves[0]),
                        "sizes": hashlib.sha256(repr(shapes).encode()).hexdigest(),
                        "contents": hash_arrays(leaves),
                        "files": False,
                    }
            self._cache[key] = parts
        return self._cache[key]


def hash_arrays(arrays: Sequence[np.ndarray], most: int = MOST_HASHED) -> str:
    """Return a hash of the contents of arrays.

    If an array has more than `most` bytes, only evenly spaced parts of the array are hashed.
    """
    digest = hashlib.blake2b(digest_size=32)
    for array in arrays:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        count = -(-len(content) // HASHED_AT_ONCE)
        hashed = count if len(content) <= most else max(1, most // HASHED_AT_ONCE)
        for part in np.linspace(0, count - 1, hashed).astype(np.int64).tolist():
            digest.update(content[part * HASHED_AT_ONCE : (part + 1) * HASHED_AT_ONCE].data)
    return digest.hexdigest()


def from_arrays(
    train: Any, test: Any, validation: Any = None, class_names: Sequence[str] | None = None, *, name: str = "arrays"
) -> ArrayDataset:
    """Return a dataset of arrays in memory. Arrays that need no conversion are not copied.

    Args:
      train: training examples: a tuple `(images, labels)`, or a dict with the key "image" and usually "label". The
        values of the dict are arrays, or dicts of arrays. Arrays of NumPy, JAX and torch are supported.

        - Images are `[N, H, W, C]`, or `[N, H, W]` with one channel. Integers from 0 to 255 become uint8. Floats become
          float32 with unchanged values. Training standardizes float images with the mean and standard deviation of the
          training images.
        - Labels are class numbers `[N]` or `[N, 1]`, strings `[N]`, or multi-hot or soft labels `[N, classes]`, with
          values from 0 to 1.
        - Other keys, such as "mask", are for tasks of your own.
      test: test examples, in the same format as `train`.
      validation: validation examples, in the same format as `train`. Default: no validation split.
        `Dataset.with_validation` can hold out training examples later.
      class_names: name of each class. Default: the distinct strings of the labels in sorted order, or the class
        numbers.
      name: name of the dataset.

    Raises:
      UsageError: if arrays have unsupported shapes or different lengths, or a split is empty. `UsageError` is also
        raised if pixels are NaN or infinite, integer pixels are outside 0 to 255, labels are out of range, or a class
        has no training examples.

    >>> images, labels = np.zeros((6, 8, 8), np.uint8), [0, 1, 2, 0, 1, 2]
    >>> dataset = from_arrays((images, labels), (images, labels), class_names=["cat", "dog", "owl"])
    >>> dataset.image_shape, dataset.examples
    ((8, 8, 1), {'train': 6, 'test': 6})
    """
    given = {"train": train, "test": test}
    if validation is not None:
        given["validation"] = validation
    arrays = {split: _read_split(examples, split) for split, examples in given.items()}
    check_same_leaves(arrays)
    names: tuple[str, ...] = ()
    if "label" in arrays["train"]:
        labels, names = read_labels({split: batch["label"] for split, batch in arrays.items()}, class_names)
        for split, batch in arrays.items():
            batch["label"] = labels[split]
    elif class_names is not None:
        raise UsageError("class_names is given, but the examples have no 'label'. Add labels, or omit class_names.")
    height, width, channels = arrays["train"]["image"].shape[1:]
    return ArrayDataset(
        name=name,
        image_shape=(height, width, channels),
        class_names=names,
        examples={split: len(batch["image"]) for split, batch in arrays.items()},
        pixel_range=255.0 if arrays["train"]["image"].dtype == np.uint8 else 1.0,
        _arrays=arrays,
    )


def _read_split(given: Any, split: str) -> Batch:
    """Return the arrays of a split. Images are checked; labels are not checked yet.

    Raises:
      UsageError: see `from_arrays`.
    """
    what = f"the {SPLIT_NAMES[split]}"
    if given is None:
        raise UsageError(f"{split} is None. Give the {SPLIT_NAMES[split]} examples as (images, labels).")
    if not isinstance(given, Mapping):
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise UsageError(
                f"{split} is not (images, labels): {_described(given)}. Give two arrays, or a dict of arrays."
            )
        given = {"image": given[0], "label": given[1]}
    if "image" not in given:
        near = closest("image", map(str, given))
        hint = f"Rename {near!r} to 'image'." if near else "Add the images as 'image'."
        listed = ", ".join(map(repr, given))
        raise UsageError(f"{what} examples have no key 'image'. The keys are {listed}. {hint}")
    try:
        raw = {key: to_array(given[key]) for key in ("image", "label") if key in given}
        batch = {str(key): raw[key] if key in raw else _read_tree(value) for key, value in given.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{what} examples are not arrays: {first_line(error)}. Give arrays of numbers, or use from_source for "
            "images of different sizes."
        ) from None
    images = batch["image"]
    if images.ndim == 0:
        raise UsageError(f"{what} images are not an array: {_described(given['image'])}. Give an array [N, H, W, C].")
    for key, tree in batch.items():
        for leaf in jax.tree.leaves(tree):
            if leaf.ndim == 0 or len(leaf) != len(images):
                length = "a single value" if leaf.ndim == 0 else f"{len(leaf):,} values"
                raise UsageError(
                    f"{what} split has {len(images):,} images, but {length} of {key!r}. Give one value for each image."
                )
    if len(images) == 0:
        raise UsageError(f"{what} split is empty. Give at least one example.")
    check_image_axes(images.shape, f"{what} images")
    images = check_pixels(images, f"{what} images")
    batch["image"] = images[..., None] if images.ndim == 3 else images
    return batch


def _read_tree(value: Any) -> Any:
    """Return an array, or a dict of arrays. Lists become arrays."""
    if isinstance(value, Mapping):
        return {str(key): _read_tree(part) for key, part in value.items()}
    return canonical(to_array(value))


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def check_same_leaves(arrays: Mapping[str, Batch]) -> None:
    """Raise `UsageError` if the examples of the splits differ in keys, shapes or types.

    The shapes and types of labels are not compared, because they may differ if the labels are strings.
    """
    expected = _leaves_of(arrays["train"])
    for split, batch in arrays.items():
        found = _leaves_of(batch)
        for key in {**expected, **found}:
            if expected.get(key) != found.get(key):
                raise UsageError(
                    f"{key!r} of the {SPLIT_NAMES[split]} examples is {found.get(key, 'missing')}, but "
                    f"{expected.get(key, 'missing')} in the training examples. Give the same arrays in each split."
                )


def _leaves_of(batch: Batch) -> dict[str, str]:
    """Return a dict from the path of each array of an example to its type and shape.

    For a label, the value is "there", because types and shapes of labels may differ.
    """
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        described[name] = "there" if name == "label" else f"{leaf.dtype} {list(leaf.shape[1:])}"
    return described
