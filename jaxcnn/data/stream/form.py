"""Check the batches of the user's iterators, and convert them to NumPy arrays of one layout."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcnn.data.dataset import SPLIT_NAMES, Batch
from jaxcnn.errors import UsageError, closest, shortened

CHANNELS = (1, 3, 4)
"""Lengths of axis 1 for which images are read as `[N, C, H, W]`, unless the last axis also has such a length."""


def named(item: Any) -> Mapping[str, Any] | None:
    """Return the parts of a batch by their names, or None if the item is not a dict, a tuple or a list.

    The parts of a tuple are named `image`, `label`, `field2`, `field3`, ...
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and item:
        return {("image", "label")[i] if i < 2 else f"field{i}": part for i, part in enumerate(item)}
    return None


def count_examples(item: Any) -> int:
    """Return the number of examples in a batch before its conversion, or 0 if the item is not a batch."""
    parts = named(item) or {}
    try:
        return len(parts["image"])
    except (KeyError, TypeError):
        return 0


class Form:
    """Convert the batches of one iterator. All batches must have the same shapes and dtypes as the first batch.

    Args:
      split: "train", "validation" or "test".
      image_shape: shape `(H, W, C)` of the images, or None to use the shape of the images in the first batch.
      dtype: dtype of images, uint8 or float32, or None to use the dtype of the first batch.
      classes: number of classes, 0 if labels are not classes, or None if the number is not known yet.
      place: function that maps labels to positions in the class names.
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
        """Check batch `number` of the iterator, and convert it to NumPy arrays.

        Raises:
          UsageError: if the batch differs from the first batch in keys, shapes or dtypes, or has NaN pixels or labels
            out of range.
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
                raise UsageError(f"images of {where} are {images.dtype}. Convert the images to uint8 or float32.")
            images = images.astype(np.float32, copy=False)
        images = _channels_last(images, self.image_shape)
        shape = images.shape[1:]
        self.image_shape = self.image_shape or shape
        self.dtype = images.dtype if self.dtype is None else self.dtype
        if shape != self.image_shape:
            raise UsageError(
                f"images of {where} have shape {shape}, not {self.image_shape}. Return images of the same size."
            )
        if images.dtype != self.dtype:
            raise UsageError(
                f"images of {where} are {images.dtype}, but {self.dtype} in the first batch. Return one dtype."
            )
        if images.dtype != np.uint8 and images.size and not np.isfinite([images.min(), images.max()]).all():
            raise UsageError(f"images of {where} have infinite or NaN pixels. Remove or correct these images.")
        return images

    def _labels(self, labels: Any, where: str) -> np.ndarray:
        if not isinstance(labels, np.ndarray) or labels.ndim == 0:
            raise UsageError(f"labels of {where} have shape {np.shape(labels)}. Return labels [N] or [N, classes].")
        classes = self.classes
        if labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iu":
            labels = labels[:, 0]  # Keras returns labels as [N, 1]
        if labels.ndim == 1 and labels.dtype.kind in "iub":
            if classes != 0 and len(labels) and (labels.min() < 0 or (classes and labels.max() >= classes)):
                wrong = labels.min() if labels.min() < 0 else labels.max()
                known = f"from 0 to {classes - 1}" if classes else "of 0 or more"
                raise UsageError(
                    f"labels of {where} are out of range: {wrong}. Use labels {known}, or give class_names."
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
                raise UsageError(f"labels of {where} are infinite or NaN. Remove or correct these labels.")
        else:
            raise UsageError(f"labels of {where} are {labels.dtype}. Return class numbers, and pass class_names.")
        return labels if self._place is None else self._place(labels)

    def _check_leaves(self, batch: Batch, where: str) -> None:
        """Raise `UsageError` if the arrays differ in length, or differ from the arrays of the first batch."""
        leaves, length = dict(_leaves(batch)), len(batch["image"])
        for name, leaf in leaves.items():
            if leaf.ndim == 0 or len(leaf) != length:
                raise UsageError(
                    f"{name!r} of {where} has shape {leaf.shape} for {length} images. Return arrays of the same length."
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
    """Convert a part of a batch to NumPy arrays: arrays of NumPy, JAX, torch or TensorFlow, or lists of numbers."""
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
    if array.dtype.kind not in "biufcV" or array.dtype.names:  # kind "V" includes bfloat16
        raise UsageError(f"{where} has dtype {array.dtype}. Return arrays of numbers, or leave out this key.")
    return array


def _channels_last(images: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Return images as `[N, H, W, C]`. Images that already have the shape `image_shape` are returned unchanged."""
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
