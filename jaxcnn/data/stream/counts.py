"""Count the examples of each split of a stream, by reading its iterator to the end."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcnn.data.dataset import SPLIT_NAMES
from jaxcnn.data.stream.form import count_examples
from jaxcnn.data.stream.source import Source
from jaxcnn.errors import UsageError


class Counts(Mapping[str, int]):
    """Number of examples of each split, over all processes. An evaluation split is read once to count its examples.

    Args:
      train: number of training examples in an epoch.
      sources: source of the batches of each split.
    """

    def __init__(self, train: int, sources: Mapping[str, Source]):
        self._sources = sources
        self._parts: dict[str, int] = {}  # number of examples of this process's iterator
        self._totals = {"train": train}
        self._longest: dict[str, int] = {}

    def __getitem__(self, split: str) -> int:
        if split not in self._sources:
            raise KeyError(split)
        if split not in self._totals:
            self.finish(split, count_all(self._sources[split]))
        return self._totals[split]

    def __contains__(self, split: object) -> bool:
        return split in self._sources  # the lookup does not read the split to count its examples

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def longest_part(self, split: str) -> int:
        """Return the largest number of examples that the iterator of any process has."""
        return self._longest[split]

    def check(self, split: str, read: int) -> None:
        """Raise `UsageError` if an iterator has yielded more examples than in its previous pass."""
        before = self._parts.get(split, read)
        if read > before:
            raise _changes_length(split, f"more than {before:,} examples")

    def finish(self, split: str, read: int) -> None:
        """Store the number of examples of a complete pass.

        Raises:
          UsageError: if the pass had no examples, or the number of examples differs from the number in the previous
            pass.
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
        """Count the examples of the evaluation splits over all processes. Every process must call this method."""
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
    """Read a new iterator to its end, and return its number of examples."""
    return sum(map(count_examples, source.open().batches))


def gather(array: np.ndarray) -> list[np.ndarray]:
    """Return the arrays of all processes. Every process must call this function."""
    if jax.process_count() == 1:
        return [array]
    # Send bytes, because JAX would round 64-bit numbers to 32 bits.
    gathered = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return [np.frombuffer(row.tobytes(), array.dtype).reshape(array.shape) for row in gathered]
