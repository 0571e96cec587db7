"""How long a run takes to train, apart from opening the data, compiling, tests and checkpoints."""

import time
from typing import Any

import jax


class Stopwatch:
    """Adds up the time of training steps and of compiling; what passes between a `lap` and `start` does not count.

    Attributes:
      training_seconds, images: time of steps, and images in them.
      first_batch_seconds: time until the first batch was there: the data set is read and decoded for it.
      compile_seconds: time of calls that compiled.
      rate: images per second since the last `start`; 0 if there was none.
    """

    def __init__(self, training_seconds: float = 0.0, images: int = 0):
        self.training_seconds, self.images = training_seconds, images
        self.first_batch_seconds = self.compile_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Goes on from now."""
        self._since = time.perf_counter()
        self._before = (self.training_seconds, self.images)

    def first_batch(self) -> None:
        """Counts the time since the last `start` as that of the first batch, once in a run's process.

        A data set that is kept in memory is decoded as a whole then, which no later batch has to wait for.
        """
        now = time.perf_counter()
        self.first_batch_seconds += now - self._since
        self._since = now

    def lap(self, state: Any, *, images: int = 0, compiling: bool = False) -> None:
        """Counts the time until `state` is computed as that of `images`, or as that of compiling."""
        jax.block_until_ready(state)
        now = time.perf_counter()
        if compiling:
            self.compile_seconds += now - self._since
        else:
            self.training_seconds += now - self._since
            self.images += images
        self._since = now

    @property
    def rate(self) -> float:
        seconds, images = self.training_seconds - self._before[0], self.images - self._before[1]
        return images / seconds if images else 0.0
