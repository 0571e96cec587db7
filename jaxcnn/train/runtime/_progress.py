"""Print the progress of a run: a progress bar, a line for each epoch, and a table at the end."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from jaxcnn.errors import printable


class PreparationDisplay:
    """Progress bar for the preparation of a dataset, on standard error, which appears when the first file is read."""

    def __init__(self, name: str, *, enabled: bool = True):
        # File names may contain text that rich would read as markup.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, refresh_per_second=4)
        self._name, self._enabled = printable(name), enabled
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "PreparationDisplay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._bar.stop()

    def show(self, part: str, done: int, total: int) -> None:
        """Show how many files or examples of a part of the dataset have been read: `done` of `total`."""
        if not self._enabled:
            return
        if not self._tasks:
            self._bar.start()  # not earlier: even an empty progress bar prints a line
        if part not in self._tasks:
            self._tasks[part] = self._bar.add_task(f"{self._name} {part}", total=total)
        if done % 64 == 0 or done == total:
            self._bar.update(self._tasks[part], completed=done)


class ProgressDisplay:
    """Progress bar over all training steps, with loss, accuracy and images per second, if `enabled` is True."""

    def __init__(self, console: Console, *, steps: int, first_step: int, batch_size: int, enabled: bool):
        self._console, self._enabled, self._batch_size = console, enabled, batch_size
        self._last = (time.perf_counter(), first_step)
        self._waited = 0.0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not enabled,
            # Draw rarely, since drawing uses CPU time.
            refresh_per_second=2,
            transient=True,
        )
        self._task = self._bar.add_task("compiling", total=steps, completed=first_step, numbers="")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def steps_done(self, step: int, epoch: float, waited: float, values: dict[str, float]) -> None:
        """Move the progress bar to `step`, and show the metrics of the steps since the last call of this method.

        Args:
          step: number of steps made so far.
          epoch: number of epochs made so far.
          waited: seconds that the run has waited for data so far. The bar shows the wait since the last call of this
            method, as a fraction of the elapsed time.
          values: metrics by name, averaged over the steps since the last call. The bar shows at most `SHOWN` metrics,
            and begins with the loss.
        """
        now, (then, before) = time.perf_counter(), self._last
        self._last = (now, step)
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        waiting = min(1.0, max(0.0, waited - self._waited) / max(now - then, 1e-9))
        self._waited = waited
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch:.1f}",
            numbers=f"{_shown(values)}  {rate:,.0f} images/s  data {waiting:.0%}",
        )

    def epoch_done(
        self, epoch: float, train: dict[str, float], split: str, values: dict[str, float], rate: float
    ) -> None:
        """Print one line with the training metrics of an epoch and the metrics of the evaluation after the epoch."""
        if self._enabled:
            # A run may end within its first epoch. The line fits into 80 columns.
            when = f"epoch {epoch:>4.3g}" if epoch >= 1 else f"step {self._last[1]:>5}"
            self._console.print(
                f"{when}  training {_shown(train, brief=True)}  {split} {_shown(values, brief=True)}  "
                f"{rate:>7,.0f} images/s",
                highlight=False,
            )
        self._last = (time.perf_counter(), self._last[1])


SHOWN = 3
"""Largest number of metrics that the progress bar shows."""


def _shown(values: dict[str, float], *, brief: bool = False) -> str:
    """Return metrics as text. If `brief`, omit the names of the loss and the accuracy, and show their values only."""
    names = [name for name in values if name != "examples"]
    if brief:
        texts = [f"{values['loss']:.4f}"] if "loss" in values else []
        texts += [f"{values['accuracy']:6.2%}"] if "accuracy" in values else []
        others = [name for name in names if name not in ("loss", "accuracy")]
        return " ".join([*texts, *(f"{name} {values[name]:.4f}" for name in others)])
    names.sort(key=lambda name: name != "loss")
    return "  ".join(
        f"{name} {values[name]:.1%}" if name == "accuracy" else f"{name} {values[name]:.3f}" for name in names[:SHOWN]
    )


def print_summary(console: Console, result: dict[str, Any], workdir: Any) -> None:
    """Print a table with the results of a finished run."""
    title = _plain(f"{result['model'].removeprefix('custom:')} on {result['dataset']}")
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    if result.get("test_accuracy") is not None:
        table.add_row(
            "test accuracy",
            f"[bold green]{result['test_accuracy']:.2%}[/] on {result['test_examples']:,} of "
            f"{result['test_examples']:,} test images",
        )
    if result.get("test_loss") is not None:
        table.add_row("test loss", f"{result['test_loss']:.4f}")
    usual = ("loss", "accuracy", "examples")
    for name, value in result.get("metrics", {}).items():
        if name not in usual and isinstance(value, int | float):
            table.add_row(_plain(f"test {name.replace('_', ' ')}"), f"{value:.4f}")
    # A result.json of version 0.1 has no "validation_examples".
    if result.get("validation_examples"):
        what = f"best {result['monitor']} {result['best_validation']:.4f} at step {result['test_step']:,}"
        table.add_row("validation", f"{what}, on {result['validation_examples']:,} images")
    elif "validation_examples" in result:
        table.add_row(
            "validation",
            "none (--validation). The test results are of the last step; the test set chooses the checkpoint best",
        )
    trained = [f"loss {result['train_loss']:.4f}"] if result.get("train_loss") is not None else []
    if result.get("train_accuracy") is not None:
        trained.append(f"accuracy {result['train_accuracy']:.2%}")
    table.add_row("training", ", ".join(trained))
    table.add_row("parameters", f"{result['params']:,}")
    table.add_row("steps", f"{result['steps']:,} ({result['epochs']:.4g} epochs of {result['batch_size']} a batch)")
    table.add_row("speed", f"{result['images_per_second']:,.0f} images/s while training")
    table.add_row(
        "time",
        # A result.json of version 0.1 has no "first_batch_seconds".
        f"{result['seconds']:.1f} s, of which the first batch {result.get('first_batch_seconds', 0.0):.1f} s, "
        f"compiling {result['compile_seconds']:.1f} s",
    )
    table.add_row("devices", _plain(f"{result['devices']} x {result['device_kind']} ({result['parallel']})"))
    table.add_row("folder", _plain(workdir))
    console.print(table)


def _plain(text: object) -> Text:
    """Return an object as a `Text`, which rich prints without interpreting markup."""
    return Text(printable(text))
