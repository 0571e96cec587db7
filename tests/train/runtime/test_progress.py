"""What a run prints: names as they are, and the step where a run ends within its first epoch."""

import io

from rich.console import Console

from jaxcnn.train.runtime._progress import ProgressDisplay, print_summary

RESULT = {
    "model": "[red]net[/b]",
    "dataset": "imagefolder::cat:\n",
    "test_accuracy": 0.5,
    "test_examples": 10,
    "test_loss": 1.0,
    "train_loss": 1.0,
    "train_accuracy": 0.5,
    "params": 3,
    "steps": 1,
    "epochs": 0.0167,
    "batch_size": 8,
    "images_per_second": 1.0,
    "seconds": 1.0,
    "compile_seconds": 1.0,
    "devices": 1,
    "device_kind": "cpu",
    "parallel": "pmap",
}


def test_the_summary_prints_names_as_they_are():
    file = io.StringIO()
    print_summary(Console(file=file, width=100), RESULT, "/runs/[b]x[/i]\udcff")
    text = file.getvalue()
    assert "[red]net[/b] on imagefolder::cat:\\n" in text
    assert "/runs/[b]x[/i]\\udcff" in text


def test_a_run_that_ends_within_its_first_epoch_prints_its_step():
    file = io.StringIO()
    metrics = {"loss": 1.0, "accuracy": 0.5}
    with ProgressDisplay(Console(file=file, width=100), steps=200, first_step=0, batch_size=8, enabled=True) as display:
        display.steps_done(20, 0.0167, 0.0, metrics)
        display.epoch_done(0.0167, metrics, "test", metrics, 10.0)
        display.steps_done(200, 1.0, 0.0, metrics)
        display.epoch_done(1.0, metrics, "test", metrics, 10.0)
    lines = [line for line in file.getvalue().splitlines() if "training" in line]
    assert [line.split("  training")[0] for line in lines] == ["step    20", "epoch    1"]
