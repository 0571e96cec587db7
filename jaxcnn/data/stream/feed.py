"""Regroup the batches of an iterator into batches of another length, and say where the next example is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxcnn.data.dataset import Batch
from jaxcnn.data.stream.form import Form, count_examples
from jaxcnn.data.stream.position import Position
from jaxcnn.data.stream.source import Source
from jaxcnn.errors import UsageError

END = object()


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return some examples of a batch, without a copy."""
    if start == 0 and stop == len(batch["image"]):
        return batch
    return jax.tree.map(lambda array: array[start:stop], batch)


def joined(parts: list[Batch]) -> Batch:
    """Return the examples of all parts in one batch."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def regrouped(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Yield the same examples in batches of `count`. The last one may be shorter."""
    parts: list[Batch] = []
    missing = count
    for batch in batches:
        length, start = len(batch["image"]), 0
        while start < length:
            stop = min(length, start + missing)
            parts.append(rows(batch, start, stop))
            missing, start = missing - (stop - start), stop
            if missing == 0:
                yield joined(parts)
                parts, missing = [], count
    if parts:
        yield joined(parts)


def one_pass(source: Source, form: Form) -> Iterator[Batch]:
    """Yield the batches of a new iterator, converted and checked. Batches without examples are left out."""
    for number, item in enumerate(source.open().batches):
        batch = form.convert(item, number)
        if len(batch["image"]):
            yield batch


class Feed:
    """The training examples from a position on, without end.

    Args:
      source: the training batches.
      make_form: returns a new `Form`.
      examples: training examples in an epoch, over all processes.
      processes: number of processes that share them. Each may have a part of an epoch that is rounded up or down.
      position: where to begin. Without a state, the examples before it are read and skipped.

    Raises:
      UsageError: if the iterator ends before the position, or refuses its state.
    """

    def __init__(
        self, source: Source, make_form: Callable[[], Form], examples: int, processes: int, position: Position
    ):
        self._source, self._make_form, self._examples, self._processes = source, make_form, examples, processes
        self._open(position.epoch, position.state)
        self._before = Position(position.epoch)  # the place before the current batch
        self._batch: Batch = {}
        self._length = self._used = 0  # examples of the current batch, and how many of them are used
        self._failure: Exception | None = None
        if position.state is None:
            self._next = Position(position.epoch)  # the place before the batch that is read next
            self._skip(position.read)
            return
        self._next = replace(position, rows=0)
        if position.rows:
            self._advance()
            self._used = min(position.rows, self._length)

    def take(self, count: int) -> Batch:
        """Return the next `count` examples.

        Raises:
          UsageError: if the iterator ends early, or a batch is wrong.
        """
        parts = []
        while count:
            if self._used == self._length:
                self._advance()
            stop = min(self._length, self._used + count)
            parts.append(rows(self._batch, self._used, stop))
            count -= stop - self._used
            self._used = stop
        return joined(parts)

    def position(self, *, look_ahead: bool) -> Position:
        """Return the place of the next example.

        Args:
          look_ahead: whether to read a batch at the end of an epoch, to learn whether the iterator ends there. A
            resumed run would read the whole epoch to learn it if the iterator has no state.
        """
        if self._used < self._length:
            return replace(self._before, rows=self._used)
        place = self._next_place()
        if not look_ahead or self._count_epochs(place.examples) is None:
            return place
        try:
            self._advance()
        except Exception as error:  # an error of the next step
            self._failure = error
            return place
        return self._before

    def _open(self, epoch: int, state: Any = None) -> None:
        self._opened, self._form = self._source.open(epoch, state), self._make_form()

    def _next_place(self) -> Position:
        """Return the place before the batch that is read next, with the state of the iterator."""
        if self._next.state is None:
            self._next = replace(self._next, state=self._opened.state())
        return self._next

    def _advance(self) -> None:
        """Read the next batch that has examples, from a new iterator if this one ends."""
        if self._failure is not None:
            raise self._failure
        while True:
            before = self._next_place()
            item = next(self._opened.batches, END)
            if item is END:
                self._next = Position(before.epoch + self._epochs_at_end(before.examples))
                self._open(self._next.epoch)
            elif self._accept(self._form.convert(item, before.batches), before):
                return

    def _accept(self, batch: Batch, before: Position) -> bool:
        """Make a batch the current one, and return whether it has examples."""
        self._before, self._batch, self._length, self._used = before, batch, len(batch["image"]), 0
        self._next = Position(before.epoch, before.batches + 1, before.examples + self._length)
        return self._length > 0

    def _skip(self, count: int) -> None:
        """Read `count` examples, which are not used."""
        while count:
            item = next(self._opened.batches, END)
            if item is END:
                raise UsageError(
                    f"the training iterator ended after {self._next.examples:,} examples, but the run has read "
                    f"{self._next.examples + count:,}. Pass the iterator that the run had."
                )
            length = count_examples(item)
            if length > count:
                self._accept(self._form.convert(item, self._next.batches), self._next)
                self._used = count
                return
            self._next = Position(self._next.epoch, self._next.batches + 1, self._next.examples + length)
            count -= length

    def _count_epochs(self, read: int) -> int | None:
        """Return the number of epochs in a number of examples of this process, or None if it is not a whole number."""
        epochs = round(read * self._processes / self._examples)
        fewest, most = self._examples // self._processes, -(-self._examples // self._processes)
        return epochs if epochs and epochs * fewest <= read <= epochs * most else None

    def _epochs_at_end(self, read: int) -> int:
        """Return the number of epochs in the examples of an iterator that has ended."""
        if read == 0:
            raise UsageError("the training iterator is empty. Return at least one batch from each new iterator.")
        epochs = self._count_epochs(read)
        if epochs is None:
            share = "" if self._processes == 1 else f", of which each of {self._processes} processes reads its part"
            raise UsageError(
                f"the training iterator ended after {read:,} examples, but examples is {self._examples:,}{share}. "
                "Set examples to the number in an epoch, or correct the iterator."
            )
        return epochs
