"""Recipes that were not run here: their training step, compiled for the GPUs that they need."""

import math
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import read_lines, write_lines
from experiments.published.entries import RECIPES
from jaxcnn.aot import Images, Report, compile_for
from jaxcnn.measure.columns import format_bytes
from jaxcnn.train import Config

PREDICTIONS = Path(__file__).parents[1] / "results" / "predictions"

TARGETS = {
    "cifar10_wide_resnet28_10": "h100",
    "cifar10_densenet_bc100": "h100",
    "imagenet_alexnet": "h100",
    "imagenet_googlenet": "h100",
    "imagenet_vgg16": "h100:8",
    "imagenet_resnet50": "h100:8",
    "imagenet_resnet50_modern": "h100:8",
}
"""Recipes that were not run here, and the GPUs that each is compiled for."""

TITLE = """# Recipes that were not run here

Written by `python -m experiments.published predict`, which compiles the training step of each recipe for NVIDIA H100
GPUs. The compiler runs on a CPU and needs `pip install 'jaxcnn[aot-cuda]'`. Nothing was trained.

- Memory: arguments, results, temporaries and the program on each GPU, as the compiler allocates them.
- Hours at least: steps x the longest of the times by compute, memory and network at the peak rates of the GPU. It is a
  lower bound: real steps take longer, and reading the images may take longer still.

[docs/compile.md](../../../docs/compile.md) explains the numbers. `jaxcnn compile --config RECIPE --for h100:8` prints
more of them.
"""


@dataclass(frozen=True)
class Prediction:
    """What the compiler says of a recipe.

    Attributes:
      recipe: name of the file in `experiments/recipes`, without `.py`.
      dataset: the dataset's name.
      steps: steps of the whole recipe.
      report: of one step.
    """

    recipe: str
    dataset: str
    steps: int
    report: Report

    @property
    def hours(self) -> float | None:
        """Lower bound of the time of all steps; None if the step could not be compiled."""
        seconds = self.report.step_seconds
        return None if seconds is None else self.steps * seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as a JSON value."""
        fields = {"recipe": self.recipe, "dataset": self.dataset, "steps": self.steps, "hours": self.hours}
        return {**fields, "report": self.report.to_dict()}


def config_of(recipe: str) -> Config:
    """Return the configuration of a recipe."""
    return runpy.run_path(str(RECIPES / f"{recipe}.py"))["config"]


def steps_of(config: Config) -> int:
    """Return the number of steps of a configuration whose dataset need not be prepared."""
    count = Images.of_dataset(config).count
    assert count is not None
    assert isinstance(config.batch_size, int)
    return config.steps or math.ceil(config.epochs * (count / config.batch_size))


def predict(recipe: str, timeout: float) -> Prediction:
    """Compile the step of a recipe for its GPUs, in a process of its own, in at most `timeout` seconds."""
    config = config_of(recipe)
    report = compile_for(TARGETS[recipe], config, images=Images.of_dataset(config), timeout=timeout)
    return Prediction(recipe, config.dataset, steps_of(config), report)


def add(prediction: Prediction, folder: Path = PREDICTIONS) -> None:
    """Store a prediction in place of an earlier one of the same recipe, and write the page."""
    rows = {row["recipe"]: row for row in read_lines(folder)} | {prediction.recipe: prediction.to_dict()}
    ordered = [rows[recipe] for recipe in TARGETS if recipe in rows]
    write_lines(folder, ordered, page(ordered))


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "recipe": lambda row: f"[{row['recipe']}](../../recipes/{row['recipe']}.py)",
    "dataset": lambda row: row["dataset"],
    "GPUs": lambda row: f"{row['report']['chips']} x {row['report']['device']}",
    "dtype": lambda row: row["report"]["dtype"],
    "batch size": lambda row: str(row["report"]["batch_size"]),
    "steps": lambda row: f"{row['steps']:,}",
    "memory": lambda row: format_bytes(row["report"]["memory"]["total"]),
    "fits": lambda row: "yes" if row["report"]["fits"] else "no",
    "bound": lambda row: row["report"]["bound"],
    "ms a step at least": lambda row: f"{1000 * row['report']['step_seconds']:.3g}",
    "hours at least": lambda row: f"{row['hours']:.2g}",
}


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page about the predictions, in Markdown."""
    cells = [[of(row) for of in COLUMNS.values()] for row in rows]
    lines = [[*COLUMNS], ["---"] * len(COLUMNS), *cells]
    compilers = ", ".join(sorted({row["report"]["compiler"] for row in rows}))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{TITLE}\n{table}\n\nCompiled with {compilers}.\n"
