"""Measure the wall-clock time of a run's training steps, not counting compilation, evaluations and checkpoints."""

import time
from typing import Any

import jax

from jaxcnn.train.devices import waits


class Stopwatch:
    """Add up the wall-clock time of training steps and of compilation.

    Time between a call of `lap` and the next call of `start` is not counted.

    Attributes:
      training_seconds: time of all training steps, without compilation.
      images: number of images in the training steps that `training_seconds` counts.
      first_batch_seconds: time until the first batch was ready, including reading and decoding the dataset.
      compile_seconds: time of the first call of each compiled training step, which includes the compilation.
      rate: training images per second since the last call of `start`; 0 if no images were counted since then.
    """

    def __init__(self, training_seconds: float = 0.0, images: int = 0):
        self.training_seconds, self.images = training_seconds, images
        self.first_batch_seconds = self.compile_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Start to count time from now on."""
        self._since = time.perf_counter()
        self._before = (self.training_seconds, self.images)

    def first_batch(self) -> None:
        """Count the time since the last call of `start` as `first_batch_seconds`. Call this method once per process.

        The first batch takes longer than later batches, since a dataset that is kept in memory is decoded completely
        before the first batch.
        """
        now = time.perf_counter()
        self.first_batch_seconds += now - self._since
        self._since = now

    def lap(self, state: Any, *, images: int = 0, compiling: bool = False) -> None:
        """Wait until `state` is computed, and count the elapsed time as training time, or as compile time.

        Args:
          state: the arrays that the last training step returned.
          images: number of images in the training steps since the last `lap` or `start`.
          compiling: whether to add the time to `compile_seconds` instead of `training_seconds`.
        """
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
        """Do not count the time since the last call of `lap`."""
        self._since = time.perf_counter()

    @property
    def rate(self) -> float:
        seconds, images = self.training_seconds - self._before[0], self.images - self._before[1]
        return images / seconds if images else 0.0
