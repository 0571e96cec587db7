"""Record a trace of chosen training steps with JAX's profiler."""

import re
from collections.abc import Callable
from pathlib import Path

import jax

from jaxcnn.errors import RunError, UsageError, printable, shortened
from jaxcnn.train.callbacks import Callback, RunView
from jaxcnn.train.devices.distributed import is_first
from jaxcnn.train.runtime.workdir import writing

PROFILE = "profile"

_RANGE = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")


def parse_profile(text: str, steps: int) -> tuple[int, int]:
    """Return the first and the last step to trace, counted from 1.

    Args:
      text: first and last step, such as "10:20".
      steps: number of training steps of the run.

    Raises:
      UsageError: if `text` does not have the form FIRST:LAST, or if FIRST or LAST is not a step of the run.

    >>> parse_profile("10:20", 100)
    (10, 20)
    >>> parse_profile("20:10", 100)
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: profile 20:10 is reversed. Use 10:20.
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UsageError(f"profile must be FIRST:LAST, such as 10:20, got {shortened(repr(text))}")
    first, last = int(found[1]), int(found[2])
    _check(first, last, steps)
    return first, last


def _check(first: int, last: int, steps: int | None) -> None:
    if min(first, last) < 1:
        raise UsageError(f"profile {first}:{last} is below the first step. Count steps from 1.")
    if first > last:
        raise UsageError(f"profile {first}:{last} is reversed. Use {last}:{first}.")
    if steps is not None and last > steps:
        most = f"{first}:{steps}" if first <= steps else f"steps from 1 to {steps}"
        raise UsageError(f"profile {first}:{last} is beyond the {steps} steps of the run. Use {most}.")


class Profile(Callback):
    """Trace the training steps `first` to `last` with `jax.profiler`, into `profile/` in the run directory.

    The trace starts when the devices have completed all steps before `first`, and ends when the devices have completed
    step `last`. If the run ends between `first` and `last`, the trace of the steps so far is kept. If the run is
    resumed between `first` and `last`, the trace contains the remaining steps. In a multi-process run, only the first
    process is traced.

    Args:
      first: first step to trace, counted from 1.
      last: last step to trace.
      show: function that prints a line of text. The line contains the path of the trace, and says how to open the
        trace.

    Raises:
      UsageError: if `first` is below 1 or above `last`.
    """

    def __init__(self, first: int, last: int, *, show: Callable[[str], object] = print):
        _check(first, last, None)
        self._first, self._last, self._show = first, last, show
        self._traced_from: int | None = None

    def stops_after(self, step: int) -> bool:
        return step in (self._first - 1, self._last)

    def on_start(self, run: RunView) -> None:
        """Start the trace if the first step that this process makes is to be traced.

        Raises:
          UsageError: if the run has fewer steps than `last`.
        """
        _check(self._first, self._last, run.steps)
        if self._first <= run.step + 1 <= self._last:
            self._start(run)
        elif self._last <= run.step and is_first():
            self._show(f"no profile: steps {self._first} to {self._last} were made before this start of the run")

    def on_step(self, run: RunView) -> None:
        if run.step == self._last:
            run.wait()
            self._stop(run)
        elif run.step + 1 == self._first:
            run.wait()
            self._start(run)

    def on_end(self, run: RunView, failed: bool) -> None:
        if self._traced_from is not None and not failed:
            run.wait()
        self._stop(run)

    def _start(self, run: RunView) -> None:
        if not is_first():
            return
        folder = run.folder / PROFILE
        with writing(folder):
            folder.mkdir(exist_ok=True)
        try:
            jax.profiler.start_trace(folder)
        except RuntimeError as error:
            raise UsageError(
                f"the profile cannot start: {_line(error)} Stop the trace that is already running."
            ) from error
        self._traced_from = run.step + 1

    def _stop(self, run: RunView) -> None:
        if self._traced_from is None:
            return
        first, self._traced_from = self._traced_from, None
        folder = run.folder / PROFILE
        try:
            jax.profiler.stop_trace()
        except RuntimeError as error:
            raise RunError(f"{folder} cannot be written: {_line(error)}. Checkpoints are kept.") from error
        if run.step < first:
            return
        steps = f"steps {first} to {run.step}" if run.step > first else f"step {first}"
        self._show(
            f"profile of {steps}: {printable(_newest_trace(folder))}. Open it at https://ui.perfetto.dev, or run: "
            f"pip install xprof && xprof --logdir {printable(folder)}"
        )


def _newest_trace(folder: Path) -> Path:
    """Return the newest `.trace.json.gz` file below a folder, or the folder itself if there is no such file."""
    # The profiler names the folder of each trace after its start time.
    return max(folder.glob("plugins/profile/*/*.trace.json.gz"), default=folder)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
