"""Bring the batches of the user's iterators to one form, and check them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcnn.data.dataset import SPLIT_NAMES, Batch
from jaxcnn.errors import UsageError, closest, shortened

CHANNELS = (1, 3, 4)
"""Numbers of channels by which images `[N, C, H, W]` are told from `[N, H, W, C]`."""


def named(item: Any) -> Mapping[str, Any] | None:
    """Return the parts of a batch by their names, or None if it has none.

    The parts of a tuple are `image`, `label`, `field2`, `field3`, ...
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and item:
        return {("image", "label")[i] if i < 2 else f"field{i}": part for i, part in enumerate(item)}
    return None


def count_examples(item: Any) -> int:
    """Return the number of examples in a batch of an iterator, without converting it. 0 if it is not a batch."""
    parts = named(item) or {}
    try:
        return len(parts["image"])
    except (KeyError, TypeError):
        return 0


class Form:
    """Convert the batches of one iterator, which all have the form of the first one.

    Args:
      split: "train", "validation" or "test".
      image_shape: `(H, W, C)`, or None for that of the first batch.
      dtype: of images, uint8 or float32, or None for that of the first batch.
      classes: number of classes, or None if it is not known yet. 0 if labels are not classes.
      place: maps labels to positions in the names of the classes.
    """

    def __init__(
        self,
        split: str,
        image_shape: tuple[int, int, int] | None = None,
        dtype: Any = None,
        classes: int | None = None,
        place: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.split, self.image_shape, self.dtype, self.classes, self._place = split, image_shape, dtype, classes, place
        self._leaves: dict[str, tuple[tuple[int, ...], Any]] | None = None

    def convert(self, item: Any, number: int) -> Batch:
        """Return batch `number` of the iterator as NumPy arrays.

        Raises:
          UsageError: if the batch is not like the first one, or has NaN pixels or labels out of range.
        """
        where = f"batch {number} of the {SPLIT_NAMES[self.split]} iterator"
        parts = named(item)
        if parts is None:
            raise UsageError(f"{where} is a {type(item).__name__}. Return dicts or tuples (image, label).")
        if "image" not in parts:
            near = closest("image", map(str, parts)) or next(map(str, parts), None)
            hint = f"Rename {near!r} to 'image'." if near else "Add it."
            raise UsageError(f"{where} has no 'image'. {hint}")
        batch = {str(name): _arrays(part, f"{name!r} of {where}") for name, part in parts.items()}
        batch["image"] = self._images(batch["image"], where)
        if "label" in batch:
            batch["label"] = self._labels(batch["label"], where)
        self._check_leaves(batch, where)
        return batch

    def _images(self, images: Any, where: str) -> np.ndarray:
        if not isinstance(images, np.ndarray) or images.ndim not in (3, 4):
            raise UsageError(f"images of {where} have shape {np.shape(images)}. Return images [N, H, W, C].")
        if images.dtype != np.uint8:
            if images.dtype.kind not in "fV":
                raise UsageError(f"images of {where} are {images.dtype}. Convert them to uint8 or float32.")
            images = images.astype(np.float32, copy=False)
        images = _channels_last(images, self.image_shape)
        shape = images.shape[1:]
        self.image_shape = self.image_shape or shape
        self.dtype = images.dtype if self.dtype is None else self.dtype
        if shape != self.image_shape:
            raise UsageError(
                f"images of {where} have shape {shape}, not {self.image_shape}. Return images of one size."
            )
        if images.dtype != self.dtype:
            raise UsageError(f"images of {where} are {images.dtype}, not {self.dtype} as others. Return one dtype.")
        if images.dtype != np.uint8 and images.size and not np.isfinite([images.min(), images.max()]).all():
            raise UsageError(f"images of {where} have infinite or NaN pixels. Remove or correct them.")
        return images

    def _labels(self, labels: Any, where: str) -> np.ndarray:
        if not isinstance(labels, np.ndarray) or labels.ndim == 0:
            raise UsageError(f"labels of {where} have shape {np.shape(labels)}. Return labels [N] or [N, classes].")
        classes = self.classes
        if labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iu":
            labels = labels[:, 0]  # as Keras returns them
        if labels.ndim == 1 and labels.dtype.kind in "iub":
            if classes != 0 and len(labels) and (labels.min() < 0 or (classes and labels.max() >= classes)):
                wrong = labels.min() if labels.min() < 0 else labels.max()
                last = f"to {classes - 1}" if classes else "on"
                raise UsageError(
                    f"labels of {where} are out of range: {wrong}. Use labels from 0 {last}, or give class_names."
                )
            labels = labels.astype(np.int32, copy=False)
        elif labels.dtype.kind in "iubf":
            if classes and (labels.ndim != 2 or labels.shape[1] != classes):
                raise UsageError(
                    f"labels of {where} have shape {labels.shape} and dtype {labels.dtype} for {classes} classes. "
                    f"Return integers [N], or floats [N, {classes}]."
                )
            labels = labels.astype(np.float32, copy=False)
            if not np.isfinite(labels).all():
                raise UsageError(f"labels of {where} are infinite or NaN. Remove or correct them.")
        else:
            raise UsageError(f"labels of {where} are {labels.dtype}. Return numbers from 0 on, and class_names.")
        return labels if self._place is None else self._place(labels)

    def _check_leaves(self, batch: Batch, where: str) -> None:
        """Raise if the arrays differ in length, or from those of the first batch."""
        leaves, length = dict(_leaves(batch)), len(batch["image"])
        for name, leaf in leaves.items():
            if leaf.ndim == 0 or len(leaf) != length:
                raise UsageError(
                    f"{name!r} of {where} has shape {leaf.shape} for {length} images. Return arrays of one length."
                )
        found = {name: (leaf.shape[1:], leaf.dtype) for name, leaf in leaves.items()}
        first = self._leaves = self._leaves or found
        if found.keys() != first.keys():
            name = min(found.keys() ^ first.keys())
            what = f"{where} has no {name!r}" if name in first else f"{where} has {name!r}, unlike the first batch"
            raise UsageError(f"{what}. Return the same keys in each batch.")
        for name, (shape, dtype) in found.items():
            if (shape, dtype) != first[name]:
                raise UsageError(
                    f"{name!r} of {where} has {dtype} of shape {shape} for each example, not {first[name][1]} of shape "
                    f"{first[name][0]}. Return the same shapes in each batch."
                )


def _arrays(part: Any, where: str) -> Any:
    """Return a part of a batch as NumPy arrays: of NumPy, JAX, torch and TensorFlow, and lists of numbers."""
    if isinstance(part, Mapping):
        return {str(name): _arrays(value, where) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_arrays(value, where) for value in part)
    if hasattr(part, "detach"):  # a tensor of torch, which may be on a device or need a gradient
        part = part.detach().cpu()
    if not isinstance(part, np.ndarray) and callable(getattr(part, "numpy", None)):
        part = part.numpy()
    try:
        array = np.asarray(part)
    except ValueError as error:
        raise UsageError(f"{where} is not an array: {shortened(error)}. Return arrays of numbers.") from error
    if array.dtype.kind not in "biufcV" or array.dtype.names:  # "V" is bfloat16 too
        raise UsageError(f"{where} has dtype {array.dtype}. Return arrays of numbers, or leave it out.")
    return array


def _channels_last(images: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Return images as `[N, H, W, C]`, without change if `image_shape` says that they are."""
    if images.ndim == 3:
        return images[..., None]
    if images.shape[1:] == image_shape:
        return images
    torch_shape = images.shape[1] in CHANNELS and images.shape[-1] not in CHANNELS
    if torch_shape or (image_shape is not None and (*images.shape[2:], images.shape[1]) == image_shape):
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    """Return the arrays of a tree with their paths, such as `target/boxes`."""
    if isinstance(tree, np.ndarray):
        return [(prefix, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for name, part in items for leaf in _leaves(part, f"{prefix}/{name}" if prefix else str(name))]
