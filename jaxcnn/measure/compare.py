"""Compare two benchmark results of the same cases, and report changes of step time above the noise threshold."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.measure.suite import describe_row

MIN_NOISE_THRESHOLD = 0.03
"""Minimum noise threshold, as a relative difference of step times. Smaller differences can result from memory
layout, which varies between processes."""
NOISE_BLOCKS = 5
"""Number of blocks into which `noise` divides the samples of a row."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one case in an old and a new benchmark result.

    Attributes:
      case: dict from names to values of the columns that identify the case.
      ratio: new median step time / old median step time; above 1 is slower. None if one of the results has no times.
      band: noise threshold, as a relative difference of step times. None if `ratio` is None.
      verdict: "same", "faster", "slower", "failed" (only the new row failed), "fixed" (only the old row failed), "still
        fails", "gone" (no new row) or "added" (no old row).
      old: the old row, or None if the old result does not have this case.
      new: the new row, or None if the new result does not have this case.

    >>> comparison = Comparison({"model": "lenet5"}, ratio=1.2, band=0.03, verdict="slower", old={}, new={})
    >>> comparison.is_regression
    True
    """

    case: dict[str, Any]
    ratio: float | None
    band: float | None
    verdict: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None

    @property
    def is_regression(self) -> bool:
        """Return whether the new result is slower than the old result, or only the new result failed."""
        return self.verdict in ("slower", "failed")


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[Comparison]:
    """Compare an old and a new list of rows, case by case. The samples of all rows of the same case are joined.

    >>> old = [{"model": "lenet5", "batch_size": 64, "samples_ms": [10.0] * 5}]
    >>> new = [{"model": "lenet5", "batch_size": 64, "samples_ms": [12.0] * 5}]
    >>> [(found.verdict, found.ratio) for found in compare(old, new)]
    [('slower', 1.2)]
    """
    old_rows, new_rows = _rows_by_case(old), _rows_by_case(new)
    return [_compare_rows(old_rows.get(case), new_rows.get(case)) for case in dict.fromkeys([*old_rows, *new_rows])]


def noise(row: dict[str, Any]) -> float:
    """Return the noise of a row: the largest relative deviation of a block's median from the overall median.

    A block is a run of consecutive samples. Slow drift, which is common on shared machines, therefore counts as noise.
    A single slow sample does not count as noise.
    """
    samples = np.asarray(row["samples_ms"], float)
    blocks = np.array_split(samples, min(NOISE_BLOCKS, len(samples)))
    median = np.median(samples)
    return float(max(abs(np.median(block) - median) for block in blocks) / median)


def _rows_by_case(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    joined: dict[str, dict[str, Any]] = {}
    for row in rows:
        case = str(describe_row(row))
        if case in joined and row.get("samples_ms") and joined[case].get("samples_ms"):
            samples = joined[case]["samples_ms"] + row["samples_ms"]
            joined[case] = {**joined[case], "samples_ms": samples, "step_ms": float(np.median(samples))}
        elif case not in joined or row.get("samples_ms"):
            joined[case] = row
    return joined


def _compare_rows(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Comparison:
    case = describe_row(old or new or {})
    if old is None:
        return Comparison(case, None, None, "added", old, new)
    if new is None:
        return Comparison(case, None, None, "gone", old, new)
    if not old.get("samples_ms"):
        verdict = "fixed" if new.get("samples_ms") else "still fails"
        return Comparison(case, None, None, verdict, old, new)
    if not new.get("samples_ms"):
        return Comparison(case, None, None, "failed", old, new)
    ratio = float(np.median(new["samples_ms"]) / np.median(old["samples_ms"]))
    threshold = max(MIN_NOISE_THRESHOLD, noise(old) + noise(new))
    if ratio > 1 + threshold:
        verdict = "slower"
    elif ratio < 1 / (1 + threshold):
        verdict = "faster"
    else:
        verdict = "same"
    return Comparison(case, ratio, threshold, verdict, old, new)
