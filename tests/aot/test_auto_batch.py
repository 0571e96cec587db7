"""The search for the largest batch that fits, on chips whose memory is a formula."""

import dataclasses

import pytest

from jaxcnn.aot.auto_batch import LARGEST, MOST_TRIALS, granularity, largest_batch
from jaxcnn.aot.report import Memory, Report
from jaxcnn.errors import UsageError

AVAILABLE = 16_000_000_000


def chip(fixed, slope, quadratic=0.0, available=AVAILABLE, error=None):
    """Return a function that "compiles" a batch, and the list of the batches that it was called for."""
    called = []

    def compile_step(size):
        called.append(size)
        total = int(fixed + slope * size + quadratic * size * size)
        parts = Memory(fixed, 0, 0, 0, total - fixed, 0, 0, total, available)
        # A TPU's compiler refuses what does not fit, and states no parts.
        memory = parts if parts.fits else None
        like = {"model": "m", "dtype": "float32", "parallel": "jit", "image_shape": (1, 1, 1)}
        return Report("v5e:1x1", "TPU v5 lite", 1, batch_size=size, fits=parts.fits, memory=memory, error=error, **like)

    return compile_step, called


@pytest.mark.parametrize(
    ("fixed", "slope", "quadratic"),
    [
        (200_000_000, 33_000_000, 0.0),
        (1_500_000_000, 1_000_000, 0.0),
        (300_000_000, 700_000_000, 0.0),
        (0, 20_000_000, 10_000.0),
    ],
)
def test_the_result_fits_and_the_next_candidate_does_not(fixed, slope, quadratic):
    compile_step, called = chip(fixed, slope, quadratic)
    report = largest_batch(compile_step)
    best = report.batch_size
    assert report.fits
    assert not compile_step(best + granularity(best)).fits
    assert len(called) - 1 <= MOST_TRIALS
    assert [size for size, _ in report.tried] == called[:-1]
    assert dict(report.tried)[best]


def test_memory_that_jumps_is_bracketed():
    smooth, called = chip(0, 10_000)

    def compile_step(size):
        report = smooth(size)
        return report if size <= 45_000 else dataclasses.replace(report, fits=False, memory=None)

    report = largest_batch(compile_step)
    best = report.batch_size
    assert best <= 45_000 < best + granularity(best)
    assert len(called) <= MOST_TRIALS


def test_the_search_ends_at_a_size_that_no_run_needs():
    compile_step, called = chip(5_000_000_000, 1_000)
    assert largest_batch(compile_step).batch_size == LARGEST
    assert len(called) <= MOST_TRIALS


def test_micro_batches_divide_the_result():
    compile_step, _ = chip(200_000_000, 33_000_000)
    assert largest_batch(compile_step, unit=6).batch_size % 6 == 0


def test_a_model_that_never_fits_is_reported_with_its_smallest_batch():
    compile_step, called = chip(2 * AVAILABLE, 1)
    report = largest_batch(compile_step)
    assert (report.fits, report.batch_size) == (False, 1)
    assert len(called) <= MOST_TRIALS


def test_a_failed_compilation_ends_the_search():
    compile_step, called = chip(0, 1, error="took more than 1 s")
    assert largest_batch(compile_step).error == "took more than 1 s"
    assert len(called) == 1


def test_unknown_memory_is_refused():
    compile_step, _ = chip(0, 1, available=None)
    with pytest.raises(UsageError, match="memory of target v5e:1x1 is unknown"):
        largest_batch(compile_step)
