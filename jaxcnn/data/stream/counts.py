"""Number of examples of each split of a stream, which is known after a pass through its iterator."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcnn.data.dataset import SPLIT_NAMES
from jaxcnn.data.stream.form import count_examples
from jaxcnn.data.stream.source import Source
from jaxcnn.errors import UsageError


class Counts(Mapping[str, int]):
    """Number of examples of each split, over all processes. Evaluation splits are read once to count them.

    Args:
      train: training examples in an epoch.
      sources: the splits.
    """

    def __init__(self, train: int, sources: Mapping[str, Source]):
        self._sources = sources
        self._parts: dict[str, int] = {}  # examples of this process's iterator
        self._totals = {"train": train}
        self._longest: dict[str, int] = {}

    def __getitem__(self, split: str) -> int:
        if split not in self._sources:
            raise KeyError(split)
        if split not in self._totals:
            self.finish(split, count_all(self._sources[split]))
        return self._totals[split]

    def __contains__(self, split: object) -> bool:
        return split in self._sources  # without a pass to count it

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def longest_part(self, split: str) -> int:
        """Return the largest number of examples that the iterator of a process has."""
        return self._longest[split]

    def check(self, split: str, read: int) -> None:
        """Raise if an iterator has yielded more examples than in the pass before."""
        before = self._parts.get(split, read)
        if read > before:
            raise _changes_length(split, f"more than {before:,} examples")

    def finish(self, split: str, read: int) -> None:
        """Keep the number of examples that a pass has read.

        Raises:
          UsageError: if there are none, or not as many as in the pass before.
        """
        if read == 0:
            raise UsageError(
                f"the {SPLIT_NAMES[split]} iterator is empty. Return at least one batch from each new iterator."
            )
        before = self._parts.setdefault(split, read)
        if read != before:
            raise _changes_length(split, f"{read:,} examples, not {before:,} as before")
        self._totals.setdefault(split, read)
        self._longest.setdefault(split, read)

    def exchange(self) -> None:
        """Count the evaluation splits of all processes. Every process must call it."""
        for split in self._sources:
            if split == "train":
                continue
            self._parts[split] = self._parts.get(split) or count_all(self._sources[split])
            parts = [int(count) for count in gather(np.array(self._parts[split]))]
            self._totals[split], self._longest[split] = sum(parts), max(parts)


def _changes_length(split: str, found: str) -> UsageError:
    return UsageError(
        f"the {SPLIT_NAMES[split]} iterator changes length: {found}. Return the same examples in each pass."
    )


def count_all(source: Source) -> int:
    """Return the number of examples of a new iterator."""
    return sum(map(count_examples, source.open().batches))


def gather(array: np.ndarray) -> list[np.ndarray]:
    """Return the array of each process, in all processes. Every process must call it."""
    if jax.process_count() == 1:
        return [array]
    # As bytes: JAX would round 64-bit numbers to 32 bits.
    gathered = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return [np.frombuffer(row.tobytes(), array.dtype).reshape(array.shape) for row in gathered]
