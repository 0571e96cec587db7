"""Regroup the batches of an iterator into batches of a given length, and track the position of the next example."""

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
    """Return the examples from `start` to `stop` of a batch, without a copy."""
    if start == 0 and stop == len(batch["image"]):
        return batch
    return jax.tree.map(lambda array: array[start:stop], batch)


def joined(parts: list[Batch]) -> Batch:
    """Return the examples of all parts in one batch."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def regrouped(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Yield the examples of `batches` in new batches of `count` examples. The last batch may be shorter."""
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
    """Yield the converted and checked batches of a new iterator. Batches without examples are left out."""
    for number, item in enumerate(source.open().batches):
        batch = form.convert(item, number)
        if len(batch["image"]):
            yield batch


class Feed:
    """An endless sequence of training examples that begins at a given position.

    Args:
      source: source of the training batches.
      make_form: function that returns a new `Form`.
      examples: number of training examples in an epoch, over all processes.
      processes: number of processes that share the examples. The parts of an epoch may differ by one example.
      position: position of the first example. If the position has no iterator state, earlier examples are read and
        skipped.

    Raises:
      UsageError: if the iterator ends before the position, or refuses its saved state.
    """

    def __init__(
        self, source: Source, make_form: Callable[[], Form], examples: int, processes: int, position: Position
    ):
        self._source, self._make_form, self._examples, self._processes = source, make_form, examples, processes
        self._open(position.epoch, position.state)
        self._before = Position(position.epoch)  # the position before the current batch
        self._batch: Batch = {}
        self._length = self._used = 0  # number of examples in the current batch, and number of these that were used
        self._failure: Exception | None = None
        if position.state is None:
            self._next = Position(position.epoch)  # the position before the next batch
            self._skip(position.read)
            return
        self._next = replace(position, rows=0)
        if position.rows:
            self._advance()
            self._used = min(position.rows, self._length)

    def take(self, count: int) -> Batch:
        """Return the next `count` examples.

        Raises:
          UsageError: if the iterator ends early, or a batch is invalid.
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
        """Return the position of the next example.

        Args:
          look_ahead: whether to read a batch at the end of an epoch, to find out whether the iterator ends there. If
            False, a run that resumes at the end of an epoch without an iterator state reads the whole epoch again.
        """
        if self._used < self._length:
            return replace(self._before, rows=self._used)
        place = self._next_place()
        if not look_ahead or self._count_epochs(place.examples) is None:
            return place
        try:
            self._advance()
        except Exception as error:  # the next step raises the error
            self._failure = error
            return place
        return self._before

    def _open(self, epoch: int, state: Any = None) -> None:
        self._opened, self._form = self._source.open(epoch, state), self._make_form()

    def _next_place(self) -> Position:
        """Return the position before the next batch, with the state of the iterator."""
        if self._next.state is None:
            self._next = replace(self._next, state=self._opened.state())
        return self._next

    def _advance(self) -> None:
        """Read the next batch that has examples. If the iterator ends, open a new iterator."""
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
        """Make `batch` the current batch, and return whether it has examples."""
        self._before, self._batch, self._length, self._used = before, batch, len(batch["image"]), 0
        self._next = Position(before.epoch, before.batches + 1, before.examples + self._length)
        return self._length > 0

    def _skip(self, count: int) -> None:
        """Read `count` examples, and discard them."""
        while count:
            item = next(self._opened.batches, END)
            if item is END:
                raise UsageError(
                    f"the training iterator ended after {self._next.examples:,} examples, but the run has read "
                    f"{self._next.examples + count:,}. "
                    "Pass an iterator with the same examples as at the start of the run."
                )
            length = count_examples(item)
            if length > count:
                self._accept(self._form.convert(item, self._next.batches), self._next)
                self._used = count
                return
            self._next = Position(self._next.epoch, self._next.batches + 1, self._next.examples + length)
            count -= length

    def _count_epochs(self, read: int) -> int | None:
        """Return the number of epochs in `read` examples of this process, or None if it is not a whole number."""
        epochs = round(read * self._processes / self._examples)
        fewest, most = self._examples // self._processes, -(-self._examples // self._processes)
        return epochs if epochs and epochs * fewest <= read <= epochs * most else None

    def _epochs_at_end(self, read: int) -> int:
        """Return the number of epochs in an iterator that has ended after `read` examples."""
        if read == 0:
            raise UsageError("the training iterator is empty. Return at least one batch from each new iterator.")
        epochs = self._count_epochs(read)
        if epochs is None:
            share = "" if self._processes == 1 else f", of which each of {self._processes} processes reads its part"
            raise UsageError(
                f"the training iterator ended after {read:,} examples, but examples is {self._examples:,}{share}. "
                "Set examples to the number of examples in an epoch, or correct the iterator."
            )
        return epochs
