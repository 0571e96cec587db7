"""Two results of the same cases side by side: what became slower by more than the noise of its repeats."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.measure.suite import describe_row

FLOOR = 0.03
"""Differences below it are never told from noise: a process's memory layout alone makes as much."""
BLOCKS = 5


@dataclass(frozen=True)
class Comparison:
    """One case in an old and in a new result.

    Attributes:
      case: what both measured.
      ratio: new median step by the old one; above 1 is slower. None if either has no times.
      band: relative difference that noise alone explains.
      verdict: "same", "faster", "slower", "failed" (worked before), "fixed", "still fails", "gone" or "added".
    """

    case: dict[str, Any]
    ratio: float | None
    band: float | None
    verdict: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None

    @property
    def is_regression(self) -> bool:
        return self.verdict in ("slower", "failed")


def compare(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[Comparison]:
    """Compares the rows of the same cases; of several rows of a case, the samples are joined."""
    before, after = _by_case(old), _by_case(new)
    return [_compare(before.get(case), after.get(case)) for case in dict.fromkeys([*before, *after])]


def noise(row: dict[str, Any]) -> float:
    """How far the row's speed wanders: the largest distance of a block's median from the median of all, relative.

    Blocks are consecutive samples. Slow drift, from which a shared machine suffers, is thus in it, while a single
    late sample is not.
    """
    samples = np.asarray(row["samples_ms"], float)
    blocks = [np.median(block) for block in np.array_split(samples, min(BLOCKS, len(samples)))]
    middle = np.median(samples)
    return float(max(abs(block - middle) for block in blocks) / middle)


def _by_case(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    joined: dict[str, dict[str, Any]] = {}
    for row in rows:
        case = str(describe_row(row))
        if case in joined and row.get("samples_ms") and joined[case].get("samples_ms"):
            samples = joined[case]["samples_ms"] + row["samples_ms"]
            joined[case] = {**joined[case], "samples_ms": samples, "step_ms": float(np.median(samples))}
        elif case not in joined or row.get("samples_ms"):
            joined[case] = row
    return joined


def _compare(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Comparison:
    case = describe_row(old or new or {})
    if old is None or new is None:
        return Comparison(case, None, None, "added" if old is None else "gone", old, new)
    worked, works = bool(old.get("samples_ms")), bool(new.get("samples_ms"))
    if not (worked and works):
        verdict = "failed" if worked else "fixed" if works else "still fails"
        return Comparison(case, None, None, verdict, old, new)
    ratio = float(np.median(new["samples_ms"]) / np.median(old["samples_ms"]))
    band = max(FLOOR, noise(old) + noise(new))
    verdict = "slower" if ratio > 1 + band else "faster" if ratio < 1 / (1 + band) else "same"
    return Comparison(case, ratio, band, verdict, old, new)
