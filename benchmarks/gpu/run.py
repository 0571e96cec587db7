"""What a part gets, and what it returns."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIN_SECONDS = 15.0
"""Time below which nothing is started: no program compiles and runs faster on a GPU."""

TIME_LIMIT = "not run: time limit reached"
"""The error of a row for which no time was left."""


class NotRunError(Exception):
    """A part cannot run here; the message says why."""


class WrongError(Exception):
    """A part has run and found a wrong result; the message says which."""


@dataclass(frozen=True)
class Run:
    """One part's share of the run.

    Attributes:
      folder: where the part writes its results.
      deadline: when the part must end, by `time.monotonic`.
      tiny: whether to run the small version.
    """

    folder: Path
    deadline: float
    tiny: bool

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def has_time(self) -> bool:
        """Whether enough time is left to start another measurement."""
        return self.seconds_left >= MIN_SECONDS


def status(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return the status of a part that has returned these rows, "done", "not run" or "failed", and a remark.

    Rows without an error make it "done"; the remark counts the other rows and has the first error.

    >>> status([{"error": None}, {"error": "out of memory: 90 GB"}])
    ('done', '1 of 2 rows have an error: out of memory: 90 GB')
    """
    errors = [str(row["error"]) for row in rows if row["error"]]
    if not errors:
        return ("done", "") if rows else ("not run", "no rows")
    if all(error.startswith("not run") for error in errors) and len(errors) == len(rows):
        return "not run", errors[0].removeprefix("not run: ")
    remark = f"{len(errors)} of {len(rows)} rows have an error: {errors[0]}"
    return ("failed" if len(errors) == len(rows) else "done"), remark
