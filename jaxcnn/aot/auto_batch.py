"""Find the largest batch whose training step fits the memory of a chip."""

import dataclasses
from collections.abc import Callable

from jaxcnn.aot.report import Report
from jaxcnn.errors import UsageError

FIRST = 32
"""Batch size per chip of the first trial."""

LARGEST = 2**16
"""Largest batch size per chip that is tried."""

MOST_TRIALS = 10
"""Maximum number of compilations in the search for the largest batch."""

Compile = Callable[[int], Report]
"""A function that compiles the training step for a batch size per chip, and returns the report."""


def granularity(size: int) -> int:
    """Return the distance between the batch sizes to try near `size`: at most `size / 16`, and at least 1.

    >>> [granularity(size) for size in (3, 16, 100, 256, 1000)]
    [1, 1, 4, 16, 32]
    """
    return max(1, 2 ** (size.bit_length() - 1) // 16)


def largest_batch(compile_step: Compile, unit: int = 1) -> Report:
    """Compile the step for several batch sizes, and return the report of the largest batch that fits the memory.

    Memory is nearly an affine function of the batch size, so the earlier trials predict the batch size that fills the
    memory. The next trial compiles this size. The size of a trial is always between the largest size that fitted
    and the smallest size that did not fit. The search ends when the next larger size (at most a sixteenth larger) does
    not fit, or after `MOST_TRIALS` compilations. `Report.tried` lists the trials.

    Args:
      compile_step: function that compiles the training step for a batch size per chip.
      unit: number of which all batch sizes per chip are multiples, such as the number of micro-batches.

    Returns:
      The report of the largest batch that fits. If a compilation failed, the function returns the report of the failed
      compilation. If the smallest batch does not fit, the function returns the report of the smallest batch. The field
      `tried` lists all trials in order.

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
            raise UsageError(f"the memory of target {report.target} is unknown. Give --batch-size a number.")
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
    """Return the batch size to try next, or None if the largest batch size that fits is known."""
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
    # Memory does not grow evenly: the predicted size is known not to fit. Try the middle instead.
    middle = _rounded((best + limit) / 2, unit) if fails else LARGEST // unit * unit
    return max(middle, best + step)


def _predicted(tried: dict[int, Report], best: int) -> float:
    """Return the batch size that is predicted to fill the memory, from the one or two largest sizes that fitted."""
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
