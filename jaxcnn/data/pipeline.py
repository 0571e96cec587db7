"""Make batches: choose the examples of each step, and transfer them to the devices.

A batch depends only on the seed and the step. The step number is therefore enough to resume. Batches do not depend on
where images are kept: decoded on the device, decoded in the memory of the host, or encoded on disk.
"""

import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import numpy as np

from jaxcnn.array_types import Bool, Int
from jaxcnn.data import alternating
from jaxcnn.data import augment as augmentations
from jaxcnn.data.dataset import Batch, Dataset
from jaxcnn.data.decode import Geometry, RandomBox
from jaxcnn.data.order import Order, balanced, batch_indices, rows_of, shuffled
from jaxcnn.data.read_ahead import READ_AHEAD, Place, grouped, placed, read_ahead
from jaxcnn.data.threads import MEMORY_SHARE, fits_memory
from jaxcnn.errors import UsageError, unknown_name

__all__ = ["READ_AHEAD", "Batch", "Padded", "Pipeline", "batch_indices", "open_pipeline", "pad", "rows_of"]

Residence = Literal["device", "memory", "disk"]
Sampling = Literal["shuffle", "balanced"]

MUCH_WAITING = 0.1
"""If steps wait for data for more than this fraction of the step time, the run reports the fraction, with advice."""

WORKERS = min(16, 2 * (os.cpu_count() or 1))
"""Number of threads that read and decode images. More threads than cores are useful: some threads wait for the disk."""


class Padded(NamedTuple):
    """A batch of an evaluation, padded to the full batch size.

    Attributes:
      batch: the examples, followed by padding with zeros in the last batch.
      mask: bool `[N]`, True for examples and False for padding.

    >>> padded = Padded({"label": np.array([3, 7, 0])}, mask=np.array([True, True, False]))
    >>> padded.batch["label"][padded.mask].tolist()
    [3, 7]
    """

    batch: Batch
    mask: Any


def pad(examples: Batch, length: int, count: int | None = None) -> Padded:
    """Return the first `count` examples, padded with zeros to a batch of `length` examples.

    Args:
      examples: host arrays with a leading axis of at least `count` examples, which are returned unchanged if they need
        no padding.
      length: number of examples in the padded batch.
      count: number of examples to keep. Default: all. If `count` is 0, `examples` is used only for the shapes of the
        padding.
    """
    held = len(jax.tree.leaves(examples)[0])
    count = held if count is None else count

    def padded(rows: np.ndarray) -> np.ndarray:
        whole = np.zeros((length, *rows.shape[1:]), rows.dtype)
        whole[:count] = rows[:count]
        return whole

    batch = examples if count == held == length else jax.tree.map(padded, examples)
    return Padded(batch, np.arange(length) < count)


@dataclass
class Pipeline:
    """Training and evaluation batches of a dataset; see `open_pipeline`.

    Attributes:
      image_shape: shape `(H, W, C)` of the images in batches.
      geometry: how images are resized and cropped to `image_shape`.
      device_augment: augmentations that the training step must apply on the device. The pipeline applies the other
        augmentations.
      residence: where the training images are kept: decoded on the "device" or in "memory", or encoded on the "disk".
      share: `(p, P)`, where p is the process index and P is the number of processes. Batches contain part p of P equal
        parts of the global batch.
      mirrors: whether each image is mirrored in every second epoch; see `jaxcnn.data.alternating`.
      example_bytes: number of bytes of a decoded example, used to decide whether an evaluation split is kept in memory.
      waited: seconds spent waiting for training batches. Transfers to the devices do not count.

    >>> from jaxcnn.data import from_arrays
    >>> images, labels = np.zeros((6, 28, 28, 1), np.uint8), [0, 1, 0, 1, 0, 1]
    >>> pipeline: Pipeline = open_pipeline(from_arrays(train=(images, labels), test=(images, labels)), batch_size=4)
    >>> [int(padded.mask.sum()) for padded in pipeline.evaluation_batches(4)]
    [4, 2]
    """

    dataset: Dataset
    batch_size: int
    seed: int
    image_shape: tuple[int, int, int]
    geometry: Geometry
    device_augment: tuple[Any, ...]
    residence: Residence
    share: tuple[int, int]
    workers: int
    example_bytes: int
    order: Order = shuffled
    mirrors: bool = False
    waited: float = 0.0
    _random_box: RandomBox | None = None
    _example: list[Any] = field(default_factory=list, repr=False)
    _on_device: list[Batch] = field(default_factory=list, repr=False)

    def batches(
        self, first_step: int = 0, place: Place | None = None, counts: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """Yield this process's part of each training batch, from step `first_step` on. The iterator does not end.

        Args:
          first_step: number of the first training step.
          place: function that transfers a batch to the devices. The function is called `READ_AHEAD` items in advance.
            Default: batches are yielded unchanged.
          counts: number of steps of each dispatch of the compiled step. If `counts` is given, each item is the list of
            the batches of one dispatch, `place` gets this list, and the iterator ends after the last dispatch.
        """
        if self.residence == "disk":
            made = read_ahead(self._training_batch_from_disk, first_step, sys.maxsize // 2, self.workers)
        elif self.residence == "device":
            # Do not add this time to `waited`: gathering waits only for earlier work of the device, never for data.
            return placed(grouped(self._from_device(first_step), counts), place)
        else:
            made = map(self._training_batch_from_memory, itertools.count(first_step))
        return placed(grouped(self._timed(made), counts), place)

    def evaluation_batches(self, batch_size: int, place: Place | None = None, split: str = "test") -> Iterator[Any]:
        """Yield this process's part of each evaluation batch. The last batch is padded.

        Args:
          batch_size: number of examples in a batch, over all processes together.
          place: function that transfers a batch to the devices. The function is called `READ_AHEAD` items in advance.
            Default: batches are yielded unchanged.
          split: "test", "validation" or "train". Each example of the split is used once, in order.

        Returns:
          Iterator of `Padded` batches, or of the results of `place` for these batches.
        """
        steps = math.ceil(self.dataset.examples[split] / batch_size)
        make = functools.partial(self._evaluation_batch, split=split, batch_size=batch_size)
        if self._is_kept(split):
            return placed(map(make, range(steps)), place)
        return placed(read_ahead(make, 0, steps, self.workers), place)

    @property
    def example(self) -> Any:
        """Shapes and dtypes of a batch that contains one example."""
        if not self._example:
            batch = self.dataset.load("train", [0], self.geometry)
            self._example.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
        return self._example[0]

    def indices(self, step: int) -> Int[np.ndarray, " n"]:
        """Return the indices of the examples in this process's part of the batch of a step, int64 `[N]`."""
        examples = self.dataset.examples["train"]
        whole = batch_indices(step, examples=examples, batch_size=self.batch_size, seed=self.seed, order=self.order)
        return whole[rows_of(self.share, self.batch_size)]

    def mirrored(self, step: int) -> Bool[np.ndarray, " n"]:
        """Return a mask of the mirrored examples in this process's part of the batch of a step, bool `[N]`."""
        examples = self.dataset.examples["train"]
        rows = rows_of(self.share, self.batch_size)
        epochs = (step * self.batch_size + np.arange(rows.start, rows.stop)) // examples
        return alternating.mirrored(self.indices(step), epochs, examples=examples, seed=self.seed)

    def _finished(self, batch: Batch, step: int) -> Batch:
        return alternating.mirror(batch, self.mirrored(step)) if self.mirrors else batch

    def state_after(self, step: int) -> Any:
        """Return None: a checkpoint stores no state of this pipeline.

        Batches depend only on the seed and the step.
        """
        return None

    def restore(self, step: int, state: Any) -> None:
        """Do nothing: `batches` can begin at any step without a saved state."""

    def _training_batch_from_memory(self, step: int) -> Batch:
        return self._finished(_rows(self._kept("train"), self.indices(step)), step)

    def _training_batch_from_disk(self, step: int) -> Batch:
        indices = self.indices(step).tolist()
        first = rows_of(self.share, self.batch_size).start
        randoms = None
        if self._random_box is not None:
            # Each seed contains the position in the global batch, so crops do not depend on the number of processes.
            randoms = [np.random.default_rng((self.seed, step, first + place)) for place in range(len(indices))]
        batch = self.dataset.load("train", indices, self.geometry, random_box=self._random_box, randoms=randoms)
        return self._finished(batch, step)

    def _from_device(self, first_step: int) -> Iterator[Batch]:
        if not self._on_device:
            self._on_device.append(jax.device_put(self._kept("train")))
        for step in itertools.count(first_step):
            yield self._finished(_gather(self._on_device[0], jax.device_put(self.indices(step))), step)

    def _evaluation_batch(self, step: int, split: str, batch_size: int) -> Padded:
        whole = np.arange(step * batch_size, (step + 1) * batch_size)
        indices = whole[rows_of(self.share, batch_size)]
        present = indices[indices < self.dataset.examples[split]].tolist()
        # If this part of the batch has no examples, load one example for the shapes of the padding.
        read = present or [0]
        if self._is_kept(split):
            examples = _rows(self._kept(split), read)
        else:
            examples = self.dataset.load(split, read, self.geometry)
        return pad(examples, len(indices), len(present))

    def _is_kept(self, split: str) -> bool:
        """Return whether a split is decoded once and kept in memory."""
        if split == "train":
            return self.residence != "disk"
        return self.residence != "disk" or fits_memory(self.dataset.examples[split] * self.example_bytes)

    def _kept(self, split: str) -> Batch:
        return self.dataset.decoded(split, self.geometry)

    def advice(self, waiting: float) -> str | None:
        """Return advice if `waiting`, the fraction of step time spent waiting for data, is large, otherwise None."""
        if waiting <= MUCH_WAITING:
            return None
        said = f"steps waited for data {waiting:.0%} of the time"
        if self.residence != "disk":
            return f"{said}: batches are gathered in memory. Larger models or more devices would hide this time."
        where = f"{self.workers} threads on {os.cpu_count()} cores read and decode the images of each batch"
        remedy = "More cores, smaller image files, or a smaller --image-size"
        if self._random_box is None:
            remedy += ", or memory for all decoded images"
        return f"{said}: {where}. {remedy} would help."

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and add the time spent waiting for each batch to `waited`."""
        while True:
            started = time.perf_counter()
            batch = next(batches)  # training batches have no end
            self.waited += time.perf_counter() - started
            yield batch


def open_pipeline(
    dataset: Dataset,
    batch_size: int,
    seed: int = 0,
    *,
    geometry: Geometry | None = None,
    augment: Sequence[Any] = (),
    residence: Residence | Literal["auto"] = "auto",
    share: tuple[int, int] = (0, 1),
    workers: int = WORKERS,
    sampling: Sampling = "shuffle",
) -> Pipeline:
    """Return the pipeline that makes the batches of a dataset.

    A split that fits into host memory is decoded once and kept there, or in device memory if the split fits into device
    memory. Several threads read and decode a larger split in advance. Batches do not depend on where the images are
    kept.

    Args:
      batch_size: number of examples in a batch, over all processes together.
      geometry: how to resize and crop images. Default: `dataset.geometry()`, which keeps the size of the images. If
        `augment` begins with "resized_crop" and the geometry changes the images, training uses random crops instead of
        the center crop.
      augment: names or functions of augmentations. `Pipeline.device_augment` lists the augmentations that the training
        step must apply. The pipeline itself applies "alternating_flip".
      residence: where to keep the training images: "device", "memory" or "disk". "auto" chooses by available memory.
      share: `(p, P)`, where p is the process index and P is the number of processes. The pipeline makes part p of P
        equal parts of each batch.
      workers: number of threads that read and decode images.
      sampling: "shuffle" uses each example once per epoch. "balanced" uses each class equally often.

    Raises:
      UsageError: if the batch size is not between 1 and the number of training images, or images differ in size and no
        `geometry` is given. Balanced sampling raises `UsageError` if an example does not have exactly one class, or
        `augment` contains "alternating_flip".

    >>> from jaxcnn.data import from_arrays
    >>> images, labels = np.zeros((6, 28, 28, 1), np.uint8), [0, 1, 0, 1, 0, 1]
    >>> pipeline = open_pipeline(from_arrays(train=(images, labels), test=(images, labels)), batch_size=4)
    >>> next(pipeline.batches())["image"].shape
    (4, 28, 28, 1)
    """
    if not dataset.random_access:
        return cast(Any, dataset).open_stream(
            batch_size, seed, geometry=geometry, augment=augment, share=share, sampling=sampling
        )
    examples = dataset.examples["train"]
    if not 1 <= batch_size <= examples:
        raise UsageError(f"batch_size must be from 1 to the {examples} training images, got {batch_size}")
    geometry = geometry or dataset.geometry()
    assert geometry.size is not None
    augment, mirrors = _without_alternating_flip(augment, sampling)
    random_box, on_device = _division(augment, crops_on_host=not dataset.keeps_pixels(geometry))
    shape = (*geometry.size, dataset.image_shape[-1])
    example_bytes = dataset.example_bytes(geometry)
    kept = _choose_residence(examples * example_bytes, random_box, residence)
    return Pipeline(
        dataset=dataset,
        batch_size=batch_size,
        seed=seed,
        image_shape=shape,
        geometry=geometry,
        device_augment=on_device,
        residence=kept,
        share=share,
        workers=max(1, workers),
        example_bytes=example_bytes,
        order=_choose_order(dataset, sampling),
        mirrors=mirrors,
        _random_box=random_box,
    )


def _without_alternating_flip(augment: Sequence[Any], sampling: str) -> tuple[tuple[Any, ...], bool]:
    """Return `augment` without "alternating_flip", and whether `augment` contained "alternating_flip"."""
    (name,) = augmentations.OF_THE_PIPELINE
    others = tuple(spec for spec in augment if spec != name)
    mirrors = len(others) < len(augment)
    if mirrors and sampling != "shuffle":
        raise UsageError(
            f"augmentation {name!r} cannot be used with sampling {sampling!r}. "
            "Use sampling 'shuffle' or augmentation 'flip'."
        )
    return others, mirrors


def _choose_order(dataset: Dataset, sampling: Sampling) -> Order:
    """Return the order of the training examples.

    Raises:
      UsageError: if `sampling` is unknown, or is "balanced" and an example does not have exactly one class.
    """
    if sampling == "shuffle":
        return shuffled
    if sampling != "balanced":
        raise unknown_name("sampling", sampling, get_args(Sampling))
    labels = dataset.labels("train")
    if labels is None or labels.ndim != 1 or not dataset.class_names:
        raise UsageError(
            f"sampling 'balanced' needs one class for each image of dataset {dataset.name!r}. Use sampling 'shuffle'."
        )
    return balanced(labels)


def _division(augment: Sequence[Any], *, crops_on_host: bool) -> tuple[RandomBox | None, tuple[Any, ...]]:
    """Return the random crop to apply while decoding, or None, and the augmentations that the device must apply."""
    specs = tuple(augment)
    if not crops_on_host or not specs or not isinstance(specs[0], str) or specs[0].partition(":")[0] != "resized_crop":
        return None, specs
    bound: Any = augmentations.parse(specs[0])
    given = getattr(bound, "keywords", {})
    usual = RandomBox()
    scale = (given.get("smallest", usual.scale[0]), given.get("largest", usual.scale[1]))
    ratio = (given.get("narrowest", usual.ratio[0]), given.get("widest", usual.ratio[1]))
    return RandomBox(scale, ratio), specs[1:]


def _choose_residence(needed: int, random_box: RandomBox | None, wanted: Residence | Literal["auto"]) -> Residence:
    if random_box is not None:
        return "disk"  # each epoch crops different parts of the encoded images
    if wanted != "auto":
        return wanted
    device = jax.local_devices()[0]
    # On a CPU, the device memory is the host memory, where NumPy gathers faster than XLA.
    if device.platform != "cpu" and jax.process_count() == 1:
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
        if needed <= MEMORY_SHARE * free:
            return "device"
    return "memory" if fits_memory(needed) else "disk"


@jax.jit
def _gather(kept: Batch, indices: jax.Array) -> Any:
    return jax.tree.map(lambda array: array[indices], kept)


def _rows(examples: Batch, indices: Any) -> Batch:
    return jax.tree.map(lambda array: array[indices], examples)
