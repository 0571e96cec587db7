"""Wall-clock time of a run's training steps, apart from reading data, compiling, tests and checkpoints."""

import time
from typing import Any

import jax

from jaxcnn.train.devices import waits


class Stopwatch:
    """Adds up the time of training steps and of compiling. Time between a `lap` and the next `start` does not count.

    Attributes:
      training_seconds, images: time of steps, and number of images in them.
      first_batch_seconds: time until the first batch was ready, for which the dataset is read and decoded.
      compile_seconds: time of calls that compiled.
      rate: images per second since the last `start`; 0 if there were none.
    """

    def __init__(self, training_seconds: float = 0.0, images: int = 0):
        self.training_seconds, self.images = training_seconds, images
        self.first_batch_seconds = self.compile_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Start counting from now."""
        self._since = time.perf_counter()
        self._before = (self.training_seconds, self.images)

    def first_batch(self) -> None:
        """Count the time since the last `start` as that of the first batch. Call it once per process.

        A dataset that is kept in memory is decoded as a whole for this batch, so later batches do not wait for it.
        """
        now = time.perf_counter()
        self.first_batch_seconds += now - self._since
        self._since = now

    def lap(self, state: Any, *, images: int = 0, compiling: bool = False) -> None:
        """Wait for `state`, and count the time as that of training `images`, or as that of compiling."""
        with waits.waiting("the devices, to make steps", others=True, first=compiling):
            jax.block_until_ready(state)
        now = time.perf_counter()
        if compiling:
            self.compile_seconds += now - self._since
        else:
            self.training_seconds += now - self._since
            self.images += images
        self._since = now

    def skip(self) -> None:
        """Leave out the time since the last `lap`."""
        self._since = time.perf_counter()

    @property
    def rate(self) -> float:
        seconds, images = self.training_seconds - self._before[0], self.images - self._before[1]
        return images / seconds if images else 0.0
