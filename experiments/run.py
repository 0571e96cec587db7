"""Running an experiment: each configuration is measured once and kept; at the end, a folder holds all of it."""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.experiment import BUDGETS, Budget, Config, Experiment, Record
from jaxcnn.errors import UsageError
from jaxcnn.measure.probes import machine
from jaxcnn.train.runtime.workdir import write_json

RESULTS = Path(__file__).parent / "results"
KEPT = Path("runs") / "experiments"
"""Where single measurements are kept, so that a run that was interrupted goes on."""
FILE = "results.json"
TINY = 200
"""Images of each split that a tiny budget sees."""

Say = Callable[[str], None]


def run(
    experiment: Experiment,
    budget: Budget,
    seeds: Sequence[int],
    folder: Path,
    *,
    kept: Path = KEPT,
    fresh: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Measures what is not measured yet, and writes `results.json` and the figures into `folder`, all at once.

    Args:
      experiment, budget, seeds: what to measure.
      folder: it is replaced only when everything is there.
      kept: where measurements are kept, by their configuration, seeds, code and versions.
      fresh: whether to measure again what is kept.
      say: gets a line for each configuration.

    Returns:
      What `results.json` holds.

    Raises:
      UsageError: a folder that cannot be written, or none of the experiment's data.
    """
    configs = experiment.configs(budget)
    if budget == "tiny":
        configs = [config | {"dataset": f"{config['dataset']}[:{TINY}]"} for config in configs]
    records = []
    for index, config in enumerate(configs, start=1):
        record, is_new = _measured(experiment, config, seeds, kept / experiment.name, fresh)
        records.append(record)
        how = f"{record.seconds:.1f} s" if is_new else "kept"
        say(f"{experiment.claim} {experiment.name} [{index}/{len(configs)}] {describe(config)}: {how}")
    told, figures = _told(experiment, records)
    results = {
        "name": experiment.name,
        "claim": experiment.claim,
        "title": experiment.title,
        "dataset": ", ".join(sorted({config["dataset"] for config in configs})),
        "budget": budget,
        "seeds": list(seeds),
        "command": f"python -m experiments {experiment.name} --budget {budget} --seeds {len(seeds)}",
        "seconds": round(sum(record.seconds for record in records), 1),
        "machine": machine.describe(),
        **told,
        "records": [{"config": r.config, "values": r.values, "seconds": round(r.seconds, 1)} for r in records],
    }
    check(results)
    _replace(folder, results, figures)
    say(f"{experiment.claim} {told['finding']['seen']}: {told['finding']['text']}")
    return results


def redraw(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Draws the figures and words the finding again, from the `results.json` in the folder."""
    results = read(folder)
    told, figures = _told(experiment, records_of(results))
    results |= {"title": experiment.title, **told}
    _replace(folder, results, figures)
    return results


def _told(experiment: Experiment, records: list[Record]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What results say of the records, by fields of `results.json`, and the figures."""
    finding, figures = experiment.finding(records), experiment.figures(records)
    fields = {"seen": finding.seen, "text": finding.text}
    return {"finding": fields, "figures": sorted(f"{name}.png" for name in figures)}, figures


def describe(config: Config) -> str:
    """A configuration in one short line: what is text, number or switch in it."""
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in config.items())


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder.

    Raises:
      UsageError: there are none, or they are damaged or of another form.
    """
    try:
        results = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise UsageError(f"{folder} has no {FILE}; python -m experiments {folder.name} makes it") from None
    except ValueError as error:
        raise UsageError(
            f"{folder / FILE} is damaged ({error}); python -m experiments {folder.name} makes it"
        ) from None
    check(results)
    return results


def records_of(results: dict[str, Any]) -> list[Record]:
    return [Record(r["config"], r["values"], r["seconds"]) for r in results["records"]]


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
    "finding": dict,
    "figures": list,
    "records": list,
}


def check(results: Any) -> None:
    """Raises `UsageError` if these are not results as `run` writes them."""
    name = results.get("name", "?") if isinstance(results, dict) else "?"

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise UsageError(f"results of {name}: {what}")

    demand(isinstance(results, dict), "not an object")
    for field, kind in SCHEMA.items():
        demand(isinstance(results.get(field), kind), f"{field} is missing or of another kind")
    demand(not (more := set(results) - set(SCHEMA)), f"unknown fields: {', '.join(sorted(more))}")
    demand(results["budget"] in BUDGETS, f"budget must be one of {', '.join(BUDGETS)}")
    demand(bool(results["seeds"]) and all(isinstance(s, int) for s in results["seeds"]), "seeds must be whole numbers")
    demand(bool(results["records"]), "no records")
    demand(bool(results["figures"]) and all(f.endswith(".png") for f in results["figures"]), "no figures")
    finding = results["finding"]
    demand(finding.get("seen") in ("yes", "partly", "no") and bool(finding.get("text")), "no finding")
    for record in results["records"]:
        demand(isinstance(record, dict) and set(record) == {"config", "values", "seconds"}, "a record of another form")
        demand(bool(record["config"]) and bool(record["values"]), "an empty record")


def _measured(
    experiment: Experiment, config: Config, seeds: Sequence[int], kept: Path, fresh: bool
) -> tuple[Record, bool]:
    """What is kept of this measurement, or else the measurement, which is then kept; and whether it is new."""
    versions = {k: v for k, v in machine.describe().items() if k in ("jax", "jaxcnn", "device_kind", "convolutions")}
    about = json.dumps([experiment.source, config, list(seeds), versions], sort_keys=True)
    path = kept / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"
    if path.exists() and not fresh:
        return Record(**json.loads(path.read_text())), False
    started = time.perf_counter()
    values = _plain(experiment.measure(config, seeds))
    record = {"config": config, "values": values, "seconds": time.perf_counter() - started}
    try:
        kept.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        raise UsageError(f"{kept} cannot be written: {error.strerror}") from error
    return Record(**record), True


def _plain(value: Any) -> Any:
    """Arrays as lists of numbers of five digits; what is not finite as None, which JSON has."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "shape") and np.ndim(value):
        return [_plain(item) for item in np.asarray(value)]
    if np.issubdtype(np.asarray(value).dtype, np.integer):
        return int(value)
    return float(f"{float(value):.5g}") if math.isfinite(value) else None


def _replace(folder: Path, results: dict[str, Any], figures: dict[str, Any]) -> None:
    """Puts a complete folder in the place of the old one."""
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
    """JSON with a line for each value of a record, so that curves do not take a line a number."""
    text = json.dumps(results | {"records": []}, indent=1)
    records = []
    for record in results["records"]:
        lines = [f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in record["values"].items()]
        head = f'  {{"config": {json.dumps(record["config"])},\n   "seconds": {record["seconds"]},\n   "values": {{\n'
        records.append(head + ",\n".join(lines) + "\n  }}")
    return text.replace('"records": []', '"records": [\n' + ",\n".join(records) + "\n ]") + "\n"
