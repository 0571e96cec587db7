"""Batches of a test set. Threads decode images in advance, with the code that `jaxcnn predict` uses too."""

import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxcnn.data import Batch, Dataset, Padded, open_pipeline
from jaxcnn.data.pipeline import pad, rows_of
from jaxcnn.data.threads import map_in_threads
from jaxcnn.train.runtime.preprocessing import Preprocessing

CHUNK = 32
"""Number of images that a thread decodes at a time."""


def evaluation_batches(
    dataset: Dataset, preprocessing: Preprocessing, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Padded]:
    """Yield batches that contain each test example once, in order. The last batch is padded.

    In a multi-process job, yield this process's part of each batch. Only a few batches are in memory at a time, however
    large the test set is.

    Args:
      dataset: dataset with the test set, whose labels are indices into `preprocessing.class_names`.
      preprocessing: object that resizes and crops the images.
      batch_size: number of examples in a batch, summed over all processes.
      share: process index and count `(p, P)`: yield part p of P equal parts of each batch.

    Raises:
      UsageError: if an image cannot be read.

    >>> from jaxcnn.data import open_dataset
    >>> dataset = open_dataset("fashion_mnist_mini")
    >>> preprocessing = Preprocessing((28, 28, 1), (0.29,), (0.35,), dataset.class_names)
    >>> batch, mask = next(evaluation_batches(dataset, preprocessing, batch_size=64))
    >>> batch["image"].shape, int(mask.sum())
    ((64, 28, 28, 1), 64)
    """
    if not dataset.random_access:
        return open_pipeline(dataset, batch_size, geometry=preprocessing.geometry, share=share).evaluation_batches(
            batch_size
        )
    return _from_random_access(dataset, preprocessing, batch_size, share)


def _from_random_access(
    dataset: Dataset, preprocessing: Preprocessing, batch_size: int, share: tuple[int, int]
) -> Iterator[Padded]:
    total, rows = dataset.examples["test"], rows_of(share, batch_size)
    starts, length = range(rows.start, total, batch_size), rows.stop - rows.start

    def chunks() -> Iterator[range]:
        for start in starts:
            stop = min(start + length, total)
            yield from (range(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK))

    def load(indices: Sequence[int]) -> Batch:
        return dataset.load("test", indices, preprocessing.geometry, channels=preprocessing.image_shape[-1])

    decoded = map_in_threads(load, chunks())
    for first in range(0, total, batch_size):
        count = min(max(total - first - rows.start, 0), length)
        # If this process has no example of the batch, load one example for the shapes of the padding.
        parts = list(itertools.islice(decoded, -(-count // CHUNK))) or [load([0])]
        yield pad(jax.tree.map(lambda *x: np.concatenate(x), *parts), length, count)
