"""Find the largest batch whose training step fits a chip."""

import dataclasses
from collections.abc import Callable

from jaxcnn.aot.report import Report
from jaxcnn.errors import UsageError

FIRST = 32
"""Images on each chip of the first trial."""

LARGEST = 2**16
"""Images on each chip beyond which no batch is tried."""

MOST_TRIALS = 10

Compile = Callable[[int], Report]
"""Compiles the step for a number of images on each chip."""


def granularity(size: int) -> int:
    """Return the step between candidates near a batch: at most a sixteenth of it, and at least 1.

    >>> [granularity(size) for size in (3, 16, 100, 256, 1000)]
    [1, 1, 4, 16, 32]
    """
    return max(1, 2 ** (size.bit_length() - 1) // 16)


def largest_batch(compile_step: Compile, unit: int = 1) -> Report:
    """Return the report of the largest batch that fits, found by trials.

    Memory is nearly an affine function of the batch. Each trial takes the size that the trials before predict to fill
    the memory, between the largest that fitted and the smallest that did not. The result fits, and the next candidate
    (at most a sixteenth larger) does not fit or was not tried after `MOST_TRIALS` compilations; see `Report.tried`.

    Args:
      compile_step: compiles the step for a number of images on each chip.
      unit: number that divides the images on each chip, such as the number of micro-batches.

    Returns:
      The report, whose `tried` lists all trials in order. If a compilation failed, its report. If not even the
      smallest batch fits, the report of that batch.

    Raises:
      UsageError: if the memory of the target is unknown.
    """
    tried: dict[int, Report] = {}
    size = _rounded(FIRST, unit)
    while True:
        report = tried[size] = compile_step(size)
        if report.error is not None:
            return _with_trials(report, tried)
        if report.fits and report.memory is not None and report.memory.available is None:
            raise UsageError(f"the memory of target {report.target} is unknown. Give a number with --batch-size.")
        following = _next(tried, unit)
        if following is None or following in tried or len(tried) == MOST_TRIALS:
            break
        size = following
    fitting = [size for size, report in tried.items() if report.fits]
    return _with_trials(tried[max(fitting) if fitting else min(tried)], tried)


def _rounded(size: float, unit: int) -> int:
    step = max(unit, granularity(max(1, int(size))))
    step = -(-step // unit) * unit
    return max(unit, int(size) // step * step)


def _next(tried: dict[int, Report], unit: int) -> int | None:
    """Return the size to try next, or None if the largest that fits is known."""
    fits = sorted(size for size, report in tried.items() if report.fits)
    fails = sorted(size for size, report in tried.items() if not report.fits)
    if not fits:
        return None if fails[0] <= unit else _rounded(fails[0] / 4, unit)
    best, limit = fits[-1], fails[0] if fails else LARGEST + 1
    step = max(unit, granularity(best))
    if best + step >= limit:
        return None
    guess = max(_rounded(_predicted(tried, best), unit), best + step)
    if guess < limit:
        return guess
    # The prediction is a size that is known to fail: memory does not grow evenly.
    middle = _rounded((best + limit) / 2, unit) if fails else LARGEST // unit * unit
    return max(middle, best + step)


def _predicted(tried: dict[int, Report], best: int) -> float:
    """Return the batch that is predicted to fill the memory, from the largest one or two that fitted."""
    needed = {size: report.memory for size, report in tried.items() if report.fits and report.memory is not None}
    memory = needed[best]
    available = memory.available or 0
    sizes = sorted(needed)
    if len(sizes) == 1:
        fixed = memory.parameters + memory.optimizer + memory.averages
        slope = (memory.total - fixed) / best
    else:
        below = sizes[-2]
        slope = (memory.total - needed[below].total) / (best - below)
    return 4 * best if slope <= 0 else best + (available - memory.total) / slope


def _with_trials(report: Report, tried: dict[int, Report]) -> Report:
    return dataclasses.replace(report, tried=tuple((size, bool(trial.fits)) for size, trial in tried.items()))
