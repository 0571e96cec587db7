"""Run an experiment: measure each configuration once, store it, and write the results to one folder."""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.experiment import BUDGETS, Budget, Config, Experiment, Measurement
from jaxcnn.errors import UsageError
from jaxcnn.measure.probes import machine
from jaxcnn.train.runtime.workdir import write_json

RESULTS = Path(__file__).parent / "results"
KEPT = Path("runs") / "experiments"
"""Where measurements are stored, so that an interrupted run resumes."""
FILE = "results.json"
TINY = 200
"""Number of images of each split under the budget "tiny"."""

Report = Callable[[str], None]


def run(
    experiment: Experiment,
    budget: Budget,
    seeds: Sequence[int],
    folder: Path,
    *,
    kept: Path = KEPT,
    fresh: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Measure every configuration that is not stored yet, then write `results.json` and the figures to `folder`.

    Args:
      experiment: the experiment.
      budget: "tiny", "small" or "full".
      seeds: one network is trained per seed and configuration.
      folder: where to write. It is replaced only once all results are complete.
      kept: where measurements are stored, keyed by configuration, seeds, code and versions.
      fresh: whether to measure again what is stored.
      report: called with one line for each configuration.

    Returns:
      The content of `results.json`.

    Raises:
      UsageError: the folder cannot be written, or the experiment's dataset is not available.
    """
    configs = experiment.configs(budget)
    if budget == "tiny":
        configs = [config | {"dataset": f"{config['dataset']}[:{TINY}]"} for config in configs]
    measurements = []
    for index, config in enumerate(configs, start=1):
        measurement, is_new = _measure_once(experiment, config, seeds, kept / experiment.name, fresh)
        measurements.append(measurement)
        time_taken = f"{measurement.seconds:.1f} s" if is_new else "stored"
        report(f"{experiment.claim} {experiment.name} [{index}/{len(configs)}] {describe(config)}: {time_taken}")
    interpretation, figures = _interpret(experiment, measurements)
    results = {
        "name": experiment.name,
        "claim": experiment.claim,
        "title": experiment.title,
        "dataset": ", ".join(sorted({config["dataset"] for config in configs})),
        "budget": budget,
        "seeds": list(seeds),
        "command": f"python -m experiments {experiment.name} --budget {budget} --seeds {len(seeds)}",
        "seconds": round(sum(m.seconds for m in measurements), 1),
        "machine": machine.describe(),
        **interpretation,
        "measurements": [
            {"config": m.config, "values": m.values, "seconds": round(m.seconds, 1)} for m in measurements
        ],
    }
    check(results)
    _replace(folder, results, figures)
    conclusion = results["conclusion"]
    report(f"{experiment.claim} confirmed: {conclusion['confirmed']}. {conclusion['text']}")
    return results


def redraw(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Update the title, the conclusion and the figures in a folder from the measurements in its `results.json`.

    Raises:
      UsageError: the folder has no valid results, or cannot be written.
    """
    results = read(folder)
    interpretation, figures = _interpret(experiment, measurements_of(results))
    results |= {"title": experiment.title, **interpretation}
    _replace(folder, results, figures)
    return results


def _interpret(experiment: Experiment, measurements: list[Measurement]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of `results.json` that follow from the measurements, and the figures by name."""
    conclusion = experiment.conclusion(measurements)
    figures = experiment.figures(measurements)
    fields = {
        "conclusion": {"confirmed": conclusion.confirmed, "text": conclusion.text},
        "figures": sorted(f"{name}.png" for name in figures),
    }
    return fields, figures


def describe(config: Config) -> str:
    """Return a configuration as one line of `name=value` pairs."""
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in config.items())


def read(folder: Path) -> dict[str, Any]:
    """Return the results in a folder.

    Raises:
      UsageError: the file is missing, damaged, or not as `run` writes it.
    """
    try:
        results = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise UsageError(f"{folder} has no {FILE}. Run python -m experiments {folder.name}") from None
    except ValueError as error:
        raise UsageError(f"{folder / FILE} is damaged: {error}. Run python -m experiments {folder.name}") from None
    check(results)
    return results


def measurements_of(results: dict[str, Any]) -> list[Measurement]:
    """Return the measurements in the content of a `results.json`."""
    return [Measurement(m["config"], m["values"], m["seconds"]) for m in results["measurements"]]


SCHEMA: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "claim": str,
    "title": str,
    "dataset": str,
    "budget": str,
    "seeds": list,
    "command": str,
    "seconds": (int, float),
    "machine": dict,
    "conclusion": dict,
    "figures": list,
    "measurements": list,
}


def check(results: Any) -> None:
    """Raise `UsageError` unless these are results as `run` writes them."""
    name = results.get("name", "?") if isinstance(results, dict) else "?"

    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise UsageError(f"results of {name}: {problem}")

    require(isinstance(results, dict), "not an object")
    for field, kind in SCHEMA.items():
        require(isinstance(results.get(field), kind), f"{field} is missing or has the wrong type")
    unknown = sorted(set(results) - set(SCHEMA))
    require(not unknown, f"unknown fields: {', '.join(unknown)}")
    require(results["budget"] in BUDGETS, f"budget must be one of {', '.join(BUDGETS)}")
    seeds, figures, conclusion = results["seeds"], results["figures"], results["conclusion"]
    require(bool(seeds) and all(isinstance(seed, int) for seed in seeds), "seeds must be integers")
    require(bool(results["measurements"]), "no measurements")
    require(bool(figures) and all(figure.endswith(".png") for figure in figures), "no figures")
    is_complete = conclusion.get("confirmed") in ("yes", "partly", "no") and bool(conclusion.get("text"))
    require(is_complete, "conclusion is incomplete")
    for measurement in results["measurements"]:
        is_valid = isinstance(measurement, dict) and set(measurement) == {"config", "values", "seconds"}
        require(is_valid, "a measurement must have the fields config, values and seconds")
        require(bool(measurement["config"]) and bool(measurement["values"]), "a measurement is empty")


def _measure_once(
    experiment: Experiment, config: Config, seeds: Sequence[int], kept: Path, fresh: bool
) -> tuple[Measurement, bool]:
    """Return the stored measurement, or measure and store it; and whether it is new."""
    versions = {k: v for k, v in machine.describe().items() if k in ("jax", "jaxcnn", "device_kind", "convolutions")}
    key = json.dumps([experiment.source, config, list(seeds), versions], sort_keys=True)
    path = kept / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if path.exists() and not fresh:
        return Measurement(**json.loads(path.read_text())), False
    started = time.perf_counter()
    values = _to_json(experiment.measure(config, seeds))
    fields = {"config": config, "values": values, "seconds": time.perf_counter() - started}
    try:
        kept.mkdir(parents=True, exist_ok=True)
        write_json(path, fields)
    except OSError as error:
        raise UsageError(f"{kept} cannot be written: {error.strerror}") from error
    return Measurement(**fields), True


def _to_json(value: Any) -> Any:
    """Return arrays as nested lists, floats rounded to five digits, and None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if hasattr(value, "shape") and np.ndim(value):
        return [_to_json(item) for item in np.asarray(value)]
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return int(value)
    return float(f"{float(value):.5g}") if math.isfinite(value) else None


def _replace(folder: Path, results: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write a complete folder, then put it in the place of the old one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            (new / FILE).write_text(compact(results))
            for name, figure in figures.items():
                figure.savefig(new / f"{name}.png", metadata={"Software": None})
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            new.rename(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error


def compact(results: dict[str, Any]) -> str:
    """Return results as JSON with one line for each measured value, so that a curve takes one line."""
    text = json.dumps(results | {"measurements": []}, indent=1)
    blocks = []
    for measurement in results["measurements"]:
        config, seconds = json.dumps(measurement["config"]), measurement["seconds"]
        lines = [f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in measurement["values"].items()]
        head = f'  {{"config": {config},\n   "seconds": {seconds},\n   "values": {{\n'
        blocks.append(head + ",\n".join(lines) + "\n  }}")
    return text.replace('"measurements": []', '"measurements": [\n' + ",\n".join(blocks) + "\n ]") + "\n"
