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

    The batches that `fit` uses are the same for every length of the iterator's batches. A background thread reads
    `READ_AHEAD` items ahead. It ends when the iterator of `batches` is closed or garbage-collected.

    Attributes:
      dataset: the iterators.
      batch_size: examples in a batch, over all processes together.
      seed: not used: the iterators choose the order.
      image_shape: `(H, W, C)` of the images in batches.
      geometry: keeps the size of the images.
      device_augment: all augmentations, which the step applies on the device.
      share: `(p, P)`, process index and count. The iterators of each process yield its own part of the examples.
      residence: "stream".
      waited: seconds spent waiting for training batches to be read. Putting them on the devices does not count.
      note: a note for the user about resuming, one line, or None.

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
    # Of the latest items only: the one that is in use, and those that are placed ahead of it.
    _positions: deque[tuple[int, Position]] = field(default_factory=lambda: deque(maxlen=READ_AHEAD + 2), repr=False)

    def batches(
        self, first_step: int = 0, place: Place | None = None, counts: Iterable[int] | None = None
    ) -> Iterator[Any]:
        """Yield training batches from step `first_step` on: this process's part of each.

        Args:
          first_step: step to begin with: 0, that of `restore`, or another one, before which examples are read and
            skipped from the start of its epoch.
          place: puts a batch on the devices. It is called `READ_AHEAD` items before the item is yielded.
          counts: numbers of steps of the calls to come. If given, each item is the list of the batches of one call,
            `place` gets such lists, and the iterator ends with `counts`. Otherwise it does not end.

        Raises:
          UsageError: when a batch is asked for that is wrong, or that the iterator does not have.
        """
        if self._restored is None or self._restored[0] != first_step:
            self.restore(first_step, None)
        assert self._restored is not None
        self._positions.clear()
        part = rows_of(self.share, self.batch_size)
        items = self._read(self._restored[2], first_step, counts, part.stop - part.start)
        return placed(self._delivered(in_background(items, READ_AHEAD)), place)

    def evaluation_batches(self, batch_size: int, place: Place | None = None, split: str = "test") -> Iterator[Any]:
        """Yield every example of a split once, in order: this process's part of each batch. The last batch is padded.

        Args:
          batch_size: examples in a batch, over all processes together.
          place: as for `batches`.
          split: "test" or "validation".

        Returns:
          Iterator of `Padded` batches, or of what `place` returns for them.

        Raises:
          UsageError: if there is no such split; or, when a batch is asked for, the iterator is empty, has another
            number of examples than before, or a batch is wrong.
        """
        if split == "train" or split not in self.dataset.examples:
            raise unknown_name("split for evaluation", split, set(self.dataset.examples) - {"train"})
        part = rows_of(self.share, batch_size)
        return placed(in_background(self._evaluation(split, part.stop - part.start), READ_AHEAD), place)

    @functools.cached_property
    def example(self) -> Any:
        """Shapes and dtypes of a batch of one example, from the first batch of a new training iterator."""
        first = next(one_pass(self.dataset.sources["train"], self.dataset.form("train")))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), first)

    def state_after(self, step: int) -> Any:
        """Return the place in this process's training iterator after `step` steps, as a JSON value.

        Call it for the step after the latest item of `batches`, or for the first step. Nothing that was read ahead is
        part of it. It is None if the place is not known.
        """
        for after, position in self._positions:
            if after == step:
                return {**asdict(position), "processes": self.share[1]}
        return self._restored[1] if self._restored is not None and self._restored[0] == step else None

    def restore(self, step: int, state: Any) -> None:
        """Let `batches(step)` continue from what `state_after(step)` returned.

        Without a state of the iterator, or if it refuses the state, examples are read again and skipped; `note` says
        how many. None as `state` skips from the start of the epoch: the same place if each iterator is one epoch.
        """
        position, reason = self._start(step, state)
        self._restored = (step, state, position)
        skips = position.state is None and position.read
        self.note = f"resuming by reading {position.read:,} examples again: {reason}" if skips else None

    def advice(self, waiting: float) -> str | None:
        """Return what to change if steps waited for data for the fraction `waiting` of their time, or None if not."""
        if waiting <= MUCH_WAITING:
            return None
        return (
            f"steps waited for data {waiting:.0%} of the time: one thread reads the training iterator. "
            "Workers in your loader, or data with random access (from_source), would help."
        )

    def _start(self, step: int, state: Any) -> tuple[Position, str]:
        """Return where to begin to read, and the reason for reading examples again if that place has no state."""
        processes = self.share[1]
        if state is None or state["processes"] != processes:
            epoch, examples = divmod(step * self.batch_size, self.dataset.examples["train"])
            what = "the place in the iterator was not saved" if state is None else "the number of processes has changed"
            return Position(epoch, rows=examples // processes), what
        position = Position(**{name: value for name, value in state.items() if name != "processes"})
        reason = "the iterator has no get_state, or one that JSON cannot store"
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
        """Yield items, the step after each, and the place there."""
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
        """Yield items, keep the place after each, and add the time that each takes to arrive to `waited`."""
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
        # All processes make the same number of steps.
        for _ in range(steps, -(-self.dataset.counts.longest_part(split) // rows)):
            yield pad(latest, rows, count=0)
