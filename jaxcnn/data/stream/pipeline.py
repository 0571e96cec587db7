"""Batches of a stream: regrouped from the user's iterators, read ahead, and resumed at any step."""

import functools
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from jaxcnn.data.dataset import Batch
from jaxcnn.data.decode import Geometry
from jaxcnn.data.order import rows_of
from jaxcnn.data.pipeline import MUCH_WAITING, Padded, pad
from jaxcnn.data.read_ahead import READ_AHEAD, Place, placed
from jaxcnn.data.stream.background import in_background
from jaxcnn.data.stream.feed import Feed, one_pass, regrouped
from jaxcnn.data.stream.position import Position
from jaxcnn.data.stream.source import StateError
from jaxcnn.errors import unknown_name

if TYPE_CHECKING:
    from jaxcnn.data.stream.batches import BatchesDataset


@dataclass
class StreamPipeline:
    """Batches of a dataset made by `from_batches`, with the methods of `Pipeline`.

    The batches that `fit` uses do not depend on the length of the iterator's batches. A background thread reads
    `READ_AHEAD` items in advance. The thread ends when the iterator that `batches` returned is closed or
    garbage-collected.

    Attributes:
      dataset: dataset with the iterators.
      batch_size: number of examples in a batch, over all processes together.
      seed: unused, because the iterators determine the order.
      image_shape: shape `(H, W, C)` of the images in batches.
      geometry: geometry of the images, which keeps their size.
      device_augment: all augmentations, which the step applies on the device.
      share: `(p, P)`, where p is the process index and P is the number of processes. The iterators of each process
        yield only the part of the examples that this process uses.
      residence: always "stream", because the images are not kept.
      waited: seconds spent waiting for training batches. Transfers to the devices do not count.
      note: message for the user about resuming, one line, or None.

    >>> import numpy as np
    >>> from jaxcnn.data import from_batches, open_pipeline
    >>> batch = {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.int32([0, 1, 0, 1])}
    >>> pipeline: Any = open_pipeline(from_batches([batch], [batch]), batch_size=2)
    >>> isinstance(pipeline, StreamPipeline), pipeline.image_shape
    (True, (8, 8, 1))
    """

    dataset: "BatchesDataset"
    batch_size: int
    seed: int
    image_shape: tuple[int, int, int]
    geometry: Geometry
    device_augment: tuple[Any, ...]
    share: tuple[int, int]
    residence: str = "stream"
    waited: float = 0.0
    note: str | None = None
    _restored: tuple[int, Any, Position] | None = None
    # Positions after the latest items only: the item in use, and the items that were transferred in advance.
    _positions: deque[tuple[int, Position]] = field(default_factory=lambda: deque(maxlen=READ_AHEAD + 2), repr=False)

    def batches(
        self, first_step: int = 0, place: Place | None = None, counts: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """Yield this process's part of each training batch, from step `first_step` on.

        Args:
          first_step: number of the first training step. If the step is neither 0 nor the step that was passed to
            `restore`, earlier examples of the epoch are read and skipped.
          place: function that transfers a batch to the devices. The function is called `READ_AHEAD` items in advance.
            Default: batches are yielded unchanged.
          counts: number of steps of each dispatch of the compiled step. If `counts` is given, each item is the list of
            the batches of one dispatch, `place` gets this list, and the iterator ends after the last dispatch. By
            default, the iterator yields one batch at a time and does not end.

        Raises:
          UsageError: when an invalid batch is requested, or the training iterator ends too early.
        """
        if self._restored is None or self._restored[0] != first_step:
            self.restore(first_step, None)
        assert self._restored is not None
        self._positions.clear()
        part = rows_of(self.share, self.batch_size)
        items = self._read(self._restored[2], first_step, counts, part.stop - part.start)
        return placed(self._delivered(in_background(items, READ_AHEAD)), place)

    def evaluation_batches(self, batch_size: int, place: Place | None = None, split: str = "test") -> Iterator[Any]:
        """Yield this process's part of each evaluation batch. The last batch is padded.

        Args:
          batch_size: number of examples in a batch, over all processes together.
          place: function that transfers a batch to the devices. The function is called `READ_AHEAD` items in advance.
            Default: batches are yielded unchanged.
          split: "test" or "validation". Each example of the split is used once, in order.

        Returns:
          Iterator of `Padded` batches, or of the results of `place` for these batches.

        Raises:
          UsageError: if the split is unknown. A requested batch raises `UsageError` if the iterator is empty, its
            number of examples has changed, or the batch is invalid.
        """
        if split == "train" or split not in self.dataset.examples:
            raise unknown_name("split for evaluation", split, set(self.dataset.examples) - {"train"})
        part = rows_of(self.share, batch_size)
        return placed(in_background(self._evaluation(split, part.stop - part.start), READ_AHEAD), place)

    @functools.cached_property
    def example(self) -> Any:
        """Shapes and dtypes of a batch that contains one example, from the first batch of a new training iterator."""
        first = next(one_pass(self.dataset.sources["train"], self.dataset.form("train")))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), first)

    def state_after(self, step: int) -> Any:
        """Return the position in this process's training iterator after `step` steps, as a JSON value, or None.

        `step` must be the step after the latest item of `batches`, or the first step. Items that were read in advance
        do not count. The result is None if the position is not known.
        """
        for after, position in self._positions:
            if after == step:
                return {**asdict(position), "processes": self.share[1]}
        return self._restored[1] if self._restored is not None and self._restored[0] == step else None

    def restore(self, step: int, state: Any) -> None:
        """Let `batches(step)` continue from `state`, which `state_after(step)` returned.

        If `state` has no state of the iterator, or the iterator refuses this state, earlier examples are read again and
        skipped. The attribute `note` then states the number of examples that are read again. If `state` is None,
        examples are skipped from the start of the epoch. Skipping from the start of the epoch is correct if each
        training iterator yields exactly one epoch.
        """
        position, reason = self._start(step, state)
        self._restored = (step, state, position)
        skips = position.state is None and position.read
        self.note = f"resuming by reading {position.read:,} examples again: {reason}" if skips else None

    def advice(self, waiting: float) -> str | None:
        """Return advice if `waiting`, the fraction of step time spent waiting for data, is large, otherwise None."""
        if waiting <= MUCH_WAITING:
            return None
        return (
            f"steps waited for data {waiting:.0%} of the time: one thread reads the training iterator. "
            "Workers in your loader, or data with random access (from_source), would help."
        )

    def _start(self, step: int, state: Any) -> tuple[Position, str]:
        """Return the position to start from, and the reason if earlier examples must be read again."""
        processes = self.share[1]
        if state is None or state["processes"] != processes:
            epoch, examples = divmod(step * self.batch_size, self.dataset.examples["train"])
            what = "the place in the iterator was not saved" if state is None else "the number of processes has changed"
            return Position(epoch, rows=examples // processes), what
        position = Position(**{name: value for name, value in state.items() if name != "processes"})
        reason = "the iterator has no get_state, or JSON cannot store its state"
        if position.state is not None:
            try:
                self.dataset.sources["train"].open(position.epoch, position.state)
                return position, ""
            except StateError as error:
                reason = str(error)
        return Position(position.epoch, rows=position.read), reason

    def _read(
        self, position: Position, first_step: int, counts: Iterable[int] | None, rows: int
    ) -> Generator[tuple[Any, int, Position], None, None]:
        """Yield each item, with the step after the item and the position after the item."""
        dataset, step = self.dataset, first_step
        remaining = itertools.repeat(1) if counts is None else iter(counts)
        count = next(remaining, None)
        if count is None:
            return
        source, examples = dataset.sources["train"], dataset.examples["train"]
        feed = Feed(source, lambda: dataset.form("train"), examples, self.share[1], position)
        while count is not None:
            batches = [feed.take(rows) for _ in range(count)]
            step += count
            count = next(remaining, None)
            yield batches[0] if counts is None else batches, step, feed.position(look_ahead=count is not None)

    def _delivered(self, items: Iterator[tuple[Any, int, Position]]) -> Iterator[Any]:
        """Yield items, record the position after each item, and add the time spent waiting to `waited`."""
        while True:
            started = time.perf_counter()
            delivered = next(items, None)
            self.waited += time.perf_counter() - started
            if delivered is None:
                return
            item, step, position = delivered
            self._positions.append((step, position))
            yield item

    def _evaluation(self, split: str, rows: int) -> Generator[Padded, None, None]:
        steps, latest = 0, Batch()
        for latest in regrouped(self.dataset.examined(split), rows):
            yield pad(latest, rows)
            steps += 1
        # All processes must make the same number of steps, so yield batches of padding.
        for _ in range(steps, -(-self.dataset.counts.longest_part(split) // rows)):
            yield pad(latest, rows, count=0)
