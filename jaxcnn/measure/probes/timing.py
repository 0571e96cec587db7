"""How long a step takes: warmed up, blocked on its result, and told as a distribution, never as one run."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UsageError

MIN_SAMPLES = 5
"""Fewer would leave no spread to speak of."""
MAX_WINDOW = 1000

Advance = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, measured several times.

    Attributes:
      samples: seconds a step, in the order in which they were taken; each is the mean over `window` steps.
      window: consecutive steps that a sample is taken over, dispatched back to back and blocked on at the end.
    """

    samples: tuple[float, ...]
    window: int = 1

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def p95(self) -> float:
        """95 % of the samples are no longer."""
        return float(np.percentile(self.samples, 95))

    @property
    def spread(self) -> float:
        """The samples' interquartile range as a share of their median."""
        first, third = np.percentile(self.samples, [25, 75])
        return float((third - first) / self.median) if self.median else 0.0


def train_advance(args: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    """The next arguments of `(state, batch) -> (state, metrics)`: the new state and the same batch."""
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
    """Times calls of `step`, whatever it returns being waited for.

    JAX returns before a result is there, so a sample ends only when all of its results are. Steps shorter than
    `min_window` are taken together, so that neither the clock nor the waiting shows in the sample, and the device is
    kept as busy as in training.

    Args:
      step: compiled already, or compiled in the warm-up, which is not counted.
      *args: what it is called with first.
      steps: steps to time at least; more are timed if they are so short that these would make fewer than
        `MIN_SAMPLES` samples.
      warmup: calls before anything is timed, at least 1.
      advance: `(args, output) -> args` of the next call. A training step that consumes its state needs it
        (`train_advance`). Without it, every call gets the same arguments.
      min_window: seconds that a sample takes at least.
      on_sample: called with the number of samples taken and to be taken, outside of the time measured.
      clock, block: the time in seconds, and the waiting for a result.

    Raises:
      UsageError: fewer than one step or warm-up.

    >>> timing = time_step(jax.jit(lambda x: x @ x), jax.numpy.ones((8, 8)), steps=5, min_window=1e-4)
    >>> len(timing.samples) >= 5, timing.median > 0
    (True, True)
    """
    if steps < 1 or warmup < 1:
        raise UsageError(f"time_step needs at least 1 step and 1 step of warm-up, got {steps} and {warmup}")

    def run(count: int) -> float:
        nonlocal args
        outputs = []
        started = clock()
        for _ in range(count):
            output = step(*args)
            if advance is None:
                outputs.append(output)  # independent calls may end in any order: all are waited for
            else:
                args = advance(args, output)
                outputs = [output]  # hangs on all before it, whose memory may be gone
        block(outputs)
        return (clock() - started) / count

    estimate = [run(1) for _ in range(warmup)][-1]
    window = max(1, min(MAX_WINDOW, math.ceil(min_window / max(estimate, 1e-9))))
    count = max(MIN_SAMPLES, math.ceil(steps / window))
    samples = []
    for index in range(count):
        samples.append(run(window))
        on_sample(index + 1, count)
    return Timing(tuple(samples), window)
