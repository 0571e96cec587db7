"""Batches: which examples each step uses, and how they reach the devices.

A batch depends on the seed and the step only. A position in the data is therefore a step number, and batches are the
same wherever images are kept: decoded on the device, decoded in memory, or encoded on the disk.
"""

import functools
import itertools
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxcnn.data import augment as augmentations
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.decode import Geometry, RandomBox
from jaxcnn.errors import UsageError

Residence = Literal["device", "memory", "disk"]
Place = Callable[[Any], Any]

MEMORY_SHARE = 0.3
"""Largest fraction of a device's or the host's memory that a decoded split may take to be kept there."""

READ_AHEAD = 2
"""Number of calls of the step whose batches are put on the devices ahead, and of batches that each worker has ready."""

MUCH_WAITING = 0.1
"""Fraction of step time spent waiting for data above which a run reports it, with advice."""

WORKERS = min(16, 2 * (os.cpu_count() or 1))
"""Number of threads that read and decode: more than cores, since some of them wait for the disk."""


Batch = dict[str, Any]
"""Examples of one step: a dict of arrays, or of trees of arrays, with a leading axis of N examples.

Batches of labeled images have `image`, uint8 `[N, H, W, C]`, and `label`, int32 `[N]`.
"""


class Padded(NamedTuple):
    """A batch of an evaluation.

    Attributes:
      batch: the examples; the last batch is padded with zeros to the length of the others.
      mask: bool `[N]`, False for padding.
    """

    batch: Batch
    mask: Any


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order of examples in an epoch. Two orders are cached: a batch may cover the end of one epoch."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the indices `[batch_size]` of the examples that training step `step` (from 0) uses.

    Epochs follow one another without a gap, each in a random order of its own, and every batch takes the next
    `batch_size` examples. Each example comes exactly once per epoch, and no batch is short. The last batch of an epoch
    may contain the first examples of the next one.

    >>> sorted(int(i) for step in range(2) for i in batch_indices(step, examples=6, batch_size=3, seed=0))
    [0, 1, 2, 3, 4, 5]
    """
    position, needed, parts = step * batch_size, batch_size, []
    while needed:
        epoch, start = divmod(position, examples)
        part = _order(seed, epoch, examples)[start : start + needed]
        parts.append(part)
        position, needed = position + len(part), needed - len(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def rows_of(share: tuple[int, int], batch_size: int) -> slice:
    """Return the rows of a batch that process `p` of `P` feeds, for the share `(p, P)`.

    >>> rows_of((1, 4), 64)
    slice(16, 32, None)
    """
    part, parts = share
    return slice(batch_size * part // parts, batch_size * (part + 1) // parts)


@dataclass
class Pipeline:
    """Batches of a dataset, from wherever its images are kept.

    Attributes:
      image_shape: `(H, W, C)` of the images in batches.
      geometry: how images are brought to that size.
      device_augment: augmentations that the step has to apply on the device; decoding has applied the others.
      residence: where the training images are kept: decoded on the "device" or in "memory", or encoded on the "disk".
      share: `(p, P)`, process index and count: batches contain part p of P equal parts of the whole ones.
      keeps_test: whether the test images are decoded once and kept in memory.
      waited: seconds spent waiting for training batches to be made. Putting them on the devices does not count.
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
    keeps_test: bool
    waited: float = 0.0
    _random_box: RandomBox | None = None
    _on_device: dict[str, Any] = field(default_factory=dict, repr=False)

    def batches(
        self, first_step: int = 0, place: Place | None = None, counts: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """Yield training batches from step `first_step` on, without end: this process's part of each.

        Args:
          place: puts a batch on the devices. It is called `READ_AHEAD` items before the item is yielded.
          counts: numbers of steps of the calls to come. If given, each item is the list of the batches of one call,
            `place` gets such lists, and the iterator ends with `counts`.
        """
        if self.residence == "disk":
            made = _read_ahead(self._training_batch_from_disk, first_step, sys.maxsize // 2, self.workers)
        elif self.residence == "device":
            # Not timed: gathering waits for the device's earlier work only, never for data.
            return _placed(_grouped(self._from_device(first_step), counts), place)
        else:
            made = map(self._training_batch_from_memory, itertools.count(first_step))
        return _placed(_grouped(self._timed(made), counts), place)

    def evaluation_batches(self, batch_size: int, place: Place | None = None) -> Iterator[Any]:
        """Yield every test example once, in order: this process's part of each batch. The last batch is padded.

        Args:
          batch_size: examples in a batch, over all processes together.
          place: as for `batches`.
        """
        steps = math.ceil(self.dataset.examples["test"] / batch_size)
        make = functools.partial(self._evaluation_batch, batch_size=batch_size)
        if self.keeps_test:
            return _placed(map(make, range(steps)), place)
        return _placed(_read_ahead(make, 0, steps, self.workers), place)

    def indices(self, step: int) -> np.ndarray:
        """Return the indices of the examples in this process's part of a step's batch."""
        whole = batch_indices(step, examples=self.dataset.examples["train"], batch_size=self.batch_size, seed=self.seed)
        return whole[rows_of(self.share, self.batch_size)]

    def _training_batch_from_memory(self, step: int) -> Batch:
        images, labels = self._kept("train")
        indices = self.indices(step)
        return Batch(image=images[indices], label=labels[indices])

    def _training_batch_from_disk(self, step: int) -> Batch:
        indices = self.indices(step)
        first = rows_of(self.share, self.batch_size).start
        examples = self.dataset.read_encoded("train", indices.tolist())
        randoms = None
        if self._random_box is not None:
            # Seeded by the position in the whole batch, so that crops do not depend on the number of processes.
            randoms = [np.random.default_rng((self.seed, step, first + place)) for place in range(len(examples))]
        images = self.dataset.decode_batch(examples, self.geometry, self._random_box, randoms)
        return Batch(image=images, label=np.array([example.label for example in examples], np.int32))

    def _from_device(self, first_step: int) -> Iterator[Batch]:
        if not self._on_device:
            images, labels = self._kept("train")
            self._on_device.update(image=jax.device_put(images), label=jax.device_put(labels))
        for step in itertools.count(first_step):
            yield _gather(self._on_device, jax.device_put(self.indices(step)))

    def _evaluation_batch(self, step: int, batch_size: int) -> Padded:
        total = self.dataset.examples["test"]
        whole = np.arange(step * batch_size, (step + 1) * batch_size)
        indices = whole[rows_of(self.share, batch_size)]
        mask = indices < total
        present = indices[mask]
        images = np.zeros((len(indices), *self.image_shape), np.uint8)
        labels = np.zeros(len(indices), np.int32)
        if self.keeps_test:
            all_images, all_labels = self._kept("test")
            images[mask], labels[mask] = all_images[present], all_labels[present]
        else:
            examples = self.dataset.read_encoded("test", present.tolist())
            images[mask] = self.dataset.decode_batch(examples, self.geometry)
            labels[mask] = [example.label for example in examples]
        return Padded(Batch(image=images, label=labels), mask)

    def _kept(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.read(split, self.geometry)

    def advice(self, waiting: float) -> str | None:
        """Return what to change if steps waited for data for the fraction `waiting` of their time, or None if not."""
        if waiting <= MUCH_WAITING:
            return None
        said = f"steps waited for data {waiting:.0%} of the time"
        if self.residence != "disk":
            return f"{said}: batches are gathered in memory. Larger models, or batches on more devices, hide it."
        where = f"{self.workers} threads on {os.cpu_count()} cores read and decode the images of each batch"
        remedy = "More cores, smaller image files, or a smaller --image-size"
        if self._random_box is None:
            remedy += ", or memory for all decoded images"
        return f"{said}: {where}. {remedy} would help."

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and add the time that each takes to arrive to `waited`."""
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
) -> Pipeline:
    """Return the batches of a dataset.

    A split that fits into memory is decoded once and kept, on the device if it fits there. A larger split is read and
    decoded ahead of the step by several threads. The batches are the same.

    Args:
      batch_size: examples in a batch, over all processes together.
      geometry: how images are brought to one size; see `Dataset.geometry`, which is the default and keeps their size.
        Training takes a random box instead of the center crop if `augment` begins with "resized_crop" and the images
        do not have this size already.
      augment: augmentations by name or function. The pipeline's `device_augment` lists those that are left for the
        device.
      residence: where to keep the training images; "auto" chooses by available memory.
      share: `(p, P)`, process index and count: make part p of P equal parts of each batch.

    Raises:
      UsageError: if the batch size is not between 1 and the number of training images, or if images differ in size and
        no `geometry` is given.
    """
    examples = dataset.examples["train"]
    if not 1 <= batch_size <= examples:
        raise UsageError(f"batch_size must be from 1 to the {examples} training images, got {batch_size}")
    geometry = geometry or dataset.geometry()
    assert geometry.size is not None
    random_box, on_device = _division(augment, crops_on_host=not dataset.keeps_pixels(geometry))
    shape = (*geometry.size, dataset.image_shape[-1])
    kept = _choose_residence(examples * math.prod(shape), random_box, residence)
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
        keeps_test=kept != "disk" or _fits_memory(dataset.examples["test"] * math.prod(shape)),
        _random_box=random_box,
    )


def _division(augment: Sequence[Any], *, crops_on_host: bool) -> tuple[RandomBox | None, tuple[Any, ...]]:
    """Return the random box to crop while decoding, if any, and the augmentations that are left for the device."""
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
        return "disk"  # each epoch crops other parts of the images
    if wanted != "auto":
        return wanted
    device = jax.local_devices()[0]
    # A CPU's memory is the host's, where NumPy gathers faster than XLA does.
    if device.platform != "cpu" and jax.process_count() == 1:
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
        if needed <= MEMORY_SHARE * free:
            return "device"
    return "memory" if _fits_memory(needed) else "disk"


def _fits_memory(needed: int) -> bool:
    """Return whether `needed` bytes are a small enough part of the host's memory; True if its size is unknown."""
    try:
        return needed <= MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return True


@jax.jit
def _gather(kept: dict[str, jax.Array], indices: jax.Array) -> Any:
    return {name: array[indices] for name, array in kept.items()}


class _Steps:
    """A grain data source whose records are whole batches."""

    def __init__(self, make: Callable[[int], Any], first: int, steps: int):
        self._make, self._first, self._steps = make, first, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._first + int(index))


def _read_ahead(make: Callable[[int], Any], first: int, steps: int, workers: int) -> Iterator[Any]:
    """Yield `make(first)`, ..., `make(first + steps - 1)` in order, computed ahead by threads of grain."""
    import grain  # slow to import

    # grain reads one record per call, so its records are batches rather than examples.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=READ_AHEAD * workers)
    return iter(grain.MapDataset.source(_Steps(make, first, steps)).to_iter_dataset(options))


def _grouped(batches: Iterator[Batch], counts: Iterable[int] | None) -> Iterator[Any]:
    """Yield batches in lists of these lengths, or one by one without `counts`."""
    if counts is None:
        return batches
    return ([next(batches) for _ in range(count)] for count in counts)


def _placed(items: Iterator[Any], place: Place | None) -> Iterator[Any]:
    """Yield what `place` makes of each item, calling it `READ_AHEAD` items early: transfers run in the background."""
    if place is None:
        yield from items
        return
    ahead: deque[Any] = deque()
    for item in items:
        ahead.append(place(item))
        if len(ahead) > READ_AHEAD:
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()
