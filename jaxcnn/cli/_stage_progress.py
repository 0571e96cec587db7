"""Show which of several long jobs runs, in processes of their own, and what it does."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class StageProgress:
    """Show the current job, its stage and its elapsed time; print one line for each finished job."""

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
        """Show the stage of a job. The elapsed time starts at 0 with each job."""
        if not self._started:  # not before the first stage, so that usage errors print without a progress bar
            self._bar.start()
            self._started = True
        if job != self._job:
            self._job = job
            self._bar.reset(self._task)
        self._bar.update(self._task, description=f"{job}  {stage}")

    def finish(self, line: Text) -> None:
        """End the current job, and print a line."""
        self._job = None
        self._console.print(line, soft_wrap=True)
