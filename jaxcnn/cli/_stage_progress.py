"""Show the progress of several long jobs that run one after another, each in its own process."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class StageProgress:
    """Show the current job with its stage and elapsed time, and print one line for each finished job."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=2,  # drawing competes with the job for CPU time
        )
        self._task = self._bar.add_task("starting")
        self._job: str | None = None
        self._started = False

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._started:
            self._bar.stop()

    def show(self, job: str, stage: str) -> None:
        """Show the current stage of a job. The elapsed time starts at 0 with each new job."""
        # Start the progress bar at the first stage, so that the bar does not appear before a usage error.
        if not self._started:
            self._bar.start()
            self._started = True
        if job != self._job:
            self._job = job
            self._bar.reset(self._task)
        self._bar.update(self._task, description=f"{job}  {stage}")

    def finish(self, line: Text) -> None:
        """Mark the current job as finished, and print `line`."""
        self._job = None
        self._console.print(line, soft_wrap=True)
