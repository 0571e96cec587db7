"""Batches: which examples make up which step, and how they are gathered."""

import functools
from collections.abc import Iterator
from typing import NotRequired, TypedDict

import numpy as np

from jaxcnn.errors import UsageError


class Batch(TypedDict):
    """Arrays of one step: `images` uint8 `[N, H, W, C]` and `labels` int32 `[N]`.

    In evaluation also `mask`, bool `[N]`: False for what only fills up a last, short batch and must not count.
    """

    images: np.ndarray
    labels: np.ndarray
    mask: NotRequired[np.ndarray]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of examples in an epoch. Two are kept, since a batch may cover the end of one and the next."""
    return np.random.default_rng((seed, epoch)).permutation(examples)


def batch_indices(step: int, *, examples: int, batch_size: int, seed: int) -> np.ndarray:
    """Indices `[batch_size]` of the examples that training step `step` (from 0) uses.

    Epochs, each in a random order of its own, follow one another without a gap, and every batch takes the next
    `batch_size` examples: each example comes exactly once an epoch, no batch is short, and the position in the
    data is the step itself. The last batch of an epoch may begin the next one.

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


def training_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[Batch]:
    """Endless batches in random order from step `first_step` on: a function of the seed and the step alone.

    Raises:
      UsageError: a batch size below 1 or above the number of examples.
    """
    if not 1 <= batch_size <= len(images):
        raise UsageError(f"batch_size must be from 1 to the {len(images)} training images, got {batch_size}")
    step = first_step
    while True:
        indices = batch_indices(step, examples=len(images), batch_size=batch_size, seed=seed)
        yield Batch(images=images[indices], labels=labels[indices])
        step += 1


def evaluation_batches(images: np.ndarray, labels: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up to `batch_size` and masked."""
    for start in range(0, len(images), batch_size):
        part, answer = images[start : start + batch_size], labels[start : start + batch_size]
        missing = batch_size - len(part)
        yield Batch(
            images=np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))),
            labels=np.pad(answer, (0, missing)),
            mask=np.arange(batch_size) < len(part),
        )
