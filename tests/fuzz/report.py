"""Collect the outcomes of cases in a report."""

import collections
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .cases import Case
from .judge import Fault, Outcome


class Report:
    """Counts of outcomes by command, and the failures grouped by their cause."""

    def __init__(self, seed: int, numbers: Sequence[int] = ()):
        self.seed = seed
        self.numbers = numbers
        self._others: list[dict[str, Any]] | None = None  # reports of earlier runs in the same file
        self.cases = 0
        self.seconds = 0.0
        self.slowest = 0.0
        self.peak = 0
        self._statuses: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._groups: dict[tuple[str, str], list[tuple[Case, Outcome, Fault]]] = collections.defaultdict(list)
        self._time_of: collections.Counter[str] = collections.Counter()

    def add(self, case: Case, outcome: Outcome, faults: Sequence[Fault]) -> None:
        """Record how a case ended."""
        self.cases += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.peak = max(self.peak, outcome.peak)
        name = case.command or "no command"
        self._time_of[name] += outcome.seconds
        self._statuses[name]["no answer" if outcome.status is None else str(outcome.status)] += 1
        for fault in faults:
            self._groups[fault.kind, fault.cause].append((case, outcome, fault))

    @property
    def failures(self) -> int:
        """The number of faults found."""
        return sum(map(len, self._groups.values()))

    def groups(self) -> list[dict[str, Any]]:
        """Return the failures by cause, the most frequent first, each with its shortest command line."""
        rows = []
        for (kind, cause), found in sorted(self._groups.items(), key=lambda group: -len(group[1])):
            case, outcome, fault = min(found, key=lambda entry: (len(entry[0].damage), len(entry[0].shown)))
            rows.append(
                {
                    "kind": kind,
                    "cause": cause,
                    "count": len(found),
                    "reproduce": f"python -m tests.fuzz --seed {case.seed} --case {case.number}",
                    "command": case.shown[:500],
                    "damage": list(outcome.damage),
                    "detail": fault.detail.strip()[-400:],
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {
            "command": f"python -m tests.fuzz --seed {self.seed} {self._selection()} --report tests/fuzz/report.json",
            "seed": self.seed,
            "cases": self.cases,
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
            "seconds_per_case": round(self.seconds / max(self.cases, 1), 4),
            "slowest_case_seconds": round(self.slowest, 2),
            "peak_memory_bytes": self.peak,
            "commands": {
                name: {
                    "cases": sum(statuses.values()),
                    "seconds": round(self._time_of[name], 1),
                    "by_status": dict(sorted(statuses.items())),
                }
                for name, statuses in sorted(self._statuses.items())
            },
            "failures_by_cause": self.groups(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "jaxlib", "flax", "numpy", "pillow", "tyro")},
            },
        }

    def _selection(self) -> str:
        """Return the flags that select the cases."""
        if isinstance(self.numbers, range):
            return f"--first {self.numbers.start} --cases {len(self.numbers)}"
        return f"--only {' '.join(map(str, self.numbers))}"

    def write(self, path: Path) -> None:
        """Write a JSON list: the reports that the file has from earlier runs, and this one."""
        if self._others is None:
            self._others = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*self._others, self.to_dict()], indent=1) + "\n")
