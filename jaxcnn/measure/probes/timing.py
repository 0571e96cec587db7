"""Time a step: warm up, wait for the results of every sample, and return the distribution of the samples."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UsageError

MIN_SAMPLES = 5
"""Minimum number of samples: fewer samples do not estimate a 95th percentile or an interquartile range."""
MAX_WINDOW = 1000
"""Maximum number of steps per sample."""

Advance = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Timing:
    """Measured times of a step.

    Attributes:
      samples: measured seconds per step, in the order of measurement. Each sample is the mean over `window` steps.
      window: number of consecutive steps per sample. These steps are dispatched back to back.

    >>> timing = Timing(samples=(0.010, 0.012, 0.010, 0.011, 0.010))
    >>> timing.median, round(timing.spread, 3)
    (0.01, 0.1)
    """

    samples: tuple[float, ...]
    window: int = 1

    @property
    def median(self) -> float:
        """Median of the samples, in seconds."""
        return float(np.median(self.samples))

    @property
    def p95(self) -> float:
        """95th percentile of the samples, in seconds."""
        return float(np.percentile(self.samples, 95))

    @property
    def spread(self) -> float:
        """Interquartile range of the samples, divided by their median."""
        first, third = np.percentile(self.samples, [25, 75])
        return float((third - first) / self.median) if self.median else 0.0


def train_advance(args: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    """Return the next arguments of a step `(state, batch) -> (state, metrics)`: the new state and the same batch.

    >>> train_advance(("state 0", "batch"), ("state 1", {"loss": 2.3}))
    ('state 1', 'batch')
    """
    return (output[0], *args[1:])


def time_step(
    step: Callable[..., Any],
    *args: Any,
    steps: int = 20,
    warmup: int = 2,
    advance: Advance | None = None,
    min_window: float = 0.05,
    on_sample: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
    block: Callable[[Any], Any] = jax.block_until_ready,
) -> Timing:
    """Time calls of `step`, including the wait for their results.

    JAX returns before a result is computed, so a sample ends when all results of its calls are ready. Steps shorter
    than `min_window` seconds are timed in groups. Groups hide the overhead of the clock and of waiting, and keep the
    device as busy as in training.

    Args:
      step: the function to time. A function under `jax.jit` is compiled in the warm-up.
      *args: arguments of the first call.
      steps: minimum number of steps to time. More steps are timed if this number results in fewer than
        `MIN_SAMPLES` samples.
      warmup: number of calls before timing, at least 1.
      advance: function that maps `(args, output)` of a call to the arguments of the next call. Required if the step
        donates its arguments; for a training step, pass `train_advance`. By default, every call gets the same
        arguments.
      min_window: minimum duration of a sample in seconds.
      on_sample: called after each sample, outside the timed region, with the number of samples so far and in total.
      clock: function that returns the time in seconds.
      block: function that waits until a result is ready.

    Returns:
      The samples, in seconds per step.

    Raises:
      UsageError: if `steps` or `warmup` is less than 1.

    >>> timing = time_step(jax.jit(lambda x: x @ x), jax.numpy.ones((8, 8)), steps=5, min_window=1e-4)
    >>> len(timing.samples) >= 5, timing.median > 0
    (True, True)
    """
    if steps < 1 or warmup < 1:
        raise UsageError(f"steps and warmup must be at least 1: {steps} and {warmup}. Give positive numbers.")

    def run(count: int) -> float:
        nonlocal args
        outputs = []
        started = clock()
        for _ in range(count):
            output = step(*args)
            if advance is None:
                outputs.append(output)  # independent calls may finish in any order
            else:
                args = advance(args, output)
                outputs = [output]  # the last output depends on all earlier outputs
        block(outputs)
        return (clock() - started) / count

    for _ in range(warmup - 1):
        run(1)
    estimate = run(1)
    window = max(1, min(MAX_WINDOW, math.ceil(min_window / max(estimate, 1e-9))))
    count = max(MIN_SAMPLES, math.ceil(steps / window))
    samples = []
    for index in range(count):
        samples.append(run(window))
        on_sample(index + 1, count)
    return Timing(tuple(samples), window)
