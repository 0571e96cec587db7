"""Results of finished runs: one JSON file for each seed, without paths of the machine that trained."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.published.entries import Entry
from jaxcnn.errors import UsageError
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config
from jaxcnn.train.config import differences, to_dict
from jaxcnn.train.optim.optimizers import resolve
from jaxcnn.train.runtime.record import read_rows
from jaxcnn.train.runtime.workdir import RESULT, read_config, read_result, write_json

RESULTS = Path(__file__).parents[1] / "results" / "recipes"
POINTS = 120
"""Largest number of points of a stored training curve."""
KEPT = (
    *("model", "dataset", "steps", "epochs", "batch_size", "seed", "test_accuracy", "test_loss", "test_examples"),
    *("train_accuracy", "train_loss", "params", "compile_seconds", "images_per_second", "devices", "kernels"),
    *("parallel", "state_sha256", "versions"),
)
"""Fields of `result.json` that are stored."""
TIMES = ("seconds", "images_per_second", "compile_seconds")
"""Fields that are None if other programs ran on the machine."""


def collect(entry: Entry, folder: Path, is_shared: bool) -> dict[str, Any]:
    """Return what is stored of a finished run of an entry.

    Args:
      entry: the recipe and its flags.
      folder: the run directory.
      is_shared: whether other programs ran on the machine, so that times do not count.

    Raises:
      UsageError: if the run is not finished, damaged, or not of this recipe.
    """
    if not (folder / RESULT).exists():
        raise UsageError(f"run is not finished: {folder}. Continue it with python -m experiments.published run.")
    config, values, rows = read_config(folder), read_result(folder), read_rows(folder)
    changed = differences(_identity(config), _identity(entry.config(config.seed)))
    if changed:
        raise UsageError(f"run is not one of {entry.name}: {folder}. It differs in {'; '.join(changed)}.")
    tests = [{name: row[name] for name in ("step", "epoch", "accuracy", "loss")} for row in rows if _is(row, "test")]
    training = _thinned([row for row in rows if _is(row, "train") and "loss" in row])
    stored = {
        "command": shlex.join(entry.command(config.seed)),
        "dtype": config.dtype,
        **{name: values[name] for name in KEPT if name in values},
        "seconds": _seconds(values),
        "machine": machine.host_name(),
        "tests": tests,
        "training": training,
    }
    if is_shared:
        stored |= dict.fromkeys(TIMES)
    return json.loads(json.dumps(stored))


def _identity(config: Config) -> dict[str, Any]:
    return to_dict(dataclasses.replace(config, optimizer=resolve(config.optimizer)))


def _is(row: dict[str, Any], split: str) -> bool:
    return row["split"] == split


def _seconds(values: dict[str, Any]) -> float | None:
    """Return the time of all steps at the run's speed. A run that was continued has no other total."""
    rate = values["images_per_second"]
    return round(values["steps"] * values["batch_size"] / rate, 1) if rate else None


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Return means over equally long parts of the training curve, each at the epoch of its end."""
    bounds = sorted({round(i * len(rows) / POINTS) for i in range(POINTS + 1)})
    parts = [rows[start:end] for start, end in pairwise(bounds)]
    return [
        {"epoch": part[-1]["epoch"], "loss": _mean(part, "loss"), "accuracy": _mean(part, "accuracy")} for part in parts
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return round(fmean(row[name] for row in rows), 5)


def write(entry: Entry, values: dict[str, Any], results: Path = RESULTS) -> Path:
    """Store the values of a seed, and return the path of the file."""
    folder = results / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{values['seed']}.json"
    write_json(path, values)
    return path


def read(entry: Entry, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the stored values of an entry, by seed; none if it was never run."""
    paths = (results / entry.name).glob("seed*.json")
    return sorted((json.loads(path.read_text()) for path in paths), key=lambda values: values["seed"])
