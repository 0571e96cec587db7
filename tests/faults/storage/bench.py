"""Runs of the tiny network on storage that fails, and the run that nobody disturbed."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killing import Ended, Worker, outcome

from storage.shim import Shim


class Watched(Worker):
    """A worker that lets something happen in the middle of a run."""

    _at, _seen = None, 0
    _do: Callable[[], object] | None = None

    def run_until(self, at_event: int, do: Callable[[], object], workdir: Path, *more: str, **job: Any) -> Ended:
        """Run the command line, and call `do` at the event of this number."""
        self._at, self._seen, self._do = at_event, 0, do
        try:
            return self.run(workdir, *more, **job)
        finally:
            self._do = None

    def _next(self) -> list[str]:
        words = super()._next()
        if self._do is not None and words[0] == "pid":
            self.pid = int(words[1])
        if self._do is not None and words[0] == "event":
            if self._seen == self._at:
                self._do()
            self._seen += 1
        return words


class Bench:
    """Workers whose calls of the C library fail by plan.

    Attributes:
      folder: for the files of trials.
      shim: the plan of the worker `worker`.
      state, expected, events: final state, outcome and number of events of an undisturbed run; see `prepare`.
      finished: run directory of that run.
    """

    def __init__(self, folder: Path, held: contextlib.ExitStack):
        self.folder, self.shim, self._held = folder, Shim(folder), held
        self.worker = self._start("cache", self.shim.environment)
        self._second: Watched | None = None

    def _start(self, cache: str, environment: dict[str, str]) -> Watched:
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            return self._held.enter_context(Watched(self.folder / cache))
        finally:
            for name in environment:
                del os.environ[name]
            os.environ.update(before)

    @property
    def second(self) -> Watched:
        """Another worker, for two runs at a time."""
        if self._second is None:
            self._second = self._start("second", {"JAX_ENABLE_COMPILATION_CACHE": "false"})
        return self._second

    def prepare(self) -> None:
        """Make the run that nobody disturbs, which also fills the cache of compiled programs."""
        self.finished = self.folder / "straight"
        ended = self.worker.run(self.finished)
        assert (ended.status, ended.errors) == (0, "")
        (self.state,) = ended.states
        self.events, self.expected = len(ended.events), outcome(self.finished)
