"""Batches of a test set, decoded ahead by threads, with the pixels that `predict` sees."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.data.dataset import Encoded
from jaxcnn.data.pipeline import Batch, Padded, rows_of
from jaxcnn.data.threads import map_in_threads
from jaxcnn.train.runtime.preprocessing import Preprocessing

CHUNK = 32
"""Number of images that a thread decodes at a time."""


def evaluation_batches(
    dataset: Dataset, preprocessing: Preprocessing, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Padded]:
    """Yield every test example once, in order: this process's part of each batch. The last batch is padded.

    Memory for a few batches is used, however large the test set is.

    Args:
      dataset: the test set, whose labels are positions in the class names of `preprocessing`.
      preprocessing: from image files to pixels.
      batch_size: examples in a batch, over all processes together.
      share: `(p, P)`, process index and count.

    Raises:
      UsageError: an image cannot be read.
    """
    total, rows = dataset.examples["test"], rows_of(share, batch_size)
    starts = range(rows.start, total, batch_size)

    def chunks() -> Iterator[range]:
        for start in starts:
            stop = min(start + rows.stop - rows.start, total)
            yield from (range(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK))

    def decode(indices: range) -> tuple[np.ndarray, np.ndarray]:
        examples = dataset.read_encoded("test", indices)
        images = _decode(dataset, preprocessing, examples)
        return images, np.array([example.label for example in examples], np.int32)

    decoded = map_in_threads(decode, chunks())
    for first in range(0, total, batch_size):
        count = min(max(total - first - rows.start, 0), rows.stop - rows.start)
        length = rows.stop - rows.start
        batch = _empty(length, preprocessing.image_shape)
        filled = 0
        while filled < count:
            images, labels = next(decoded)
            batch["image"][filled : filled + len(images)] = images
            batch["label"][filled : filled + len(images)] = labels
            filled += len(images)
        yield Padded(batch, np.arange(length) < filled)


def _decode(dataset: Dataset, preprocessing: Preprocessing, examples: Sequence[Encoded]) -> np.ndarray:
    """Return the pixels of examples, in the channels of the network.

    Raises:
      UsageError: an image is damaged.
    """
    if dataset.image_shape[-1] == preprocessing.image_shape[-1]:
        return dataset.decode_batch(examples, preprocessing.geometry)
    try:
        return np.stack([preprocessing.decode(example.image) for example in examples])
    except ValueError as error:
        raise dataset.damaged(error) from error


def _empty(rows: int, image_shape: tuple[int, ...]) -> Batch:
    return {
        "image": np.zeros((rows, *image_shape), np.uint8),
        "label": np.zeros(rows, np.int32),
    }
