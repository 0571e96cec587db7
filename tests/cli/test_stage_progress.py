"""The line that shows which job runs and what it does."""

import io

from rich.console import Console
from rich.text import Text

from jaxcnn.cli._stage_progress import StageProgress


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def test_nothing_is_drawn_before_the_first_stage():
    console = terminal()
    with StageProgress(console):
        pass
    assert console.file.getvalue() == ""


def test_jobs_and_stages_are_shown_and_finished_jobs_have_a_line():
    console = terminal()
    with StageProgress(console) as progress:
        progress.show("h100", "compiling [red]")
        progress.finish(Text("h100: 5 images/s"))
    drawn = console.file.getvalue()
    assert "h100  compiling [red]" in drawn
    assert "h100: 5 images/s\n" in drawn


def test_the_elapsed_time_starts_with_each_job():
    progress = StageProgress(terminal())
    with progress:
        started = []
        for job in ("a", "a", "b", None, "b"):
            if job is None:
                progress.finish(Text("done"))
            else:
                progress.show(job, "compiling")
                started.append(progress._bar.tasks[0].start_time)
    assert started[0] == started[1] < started[2] < started[3]
