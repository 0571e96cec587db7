"""Measure the time and the accuracy of the recipe `experiments/recipes/cifar10_speedrun.py`, in jaxcnn and PyTorch.

    python -m benchmarks.speedrun --data cifar10.npz [--seeds 0,1,2] [--library jaxcnn,torch] [--epochs 9.9]
                                  [--dtype float32] [--python torch=/path/to/python]

Each run is a separate process. Libraries take turns, seed by seed, on the same cores. To resume after a stop, repeat
the command: finished runs are in `rows.json`, and a stopped run resumes from its latest checkpoint.

The data is a NumPy file with x_train, y_train, x_test and y_test; a folder with the binary batches of CIFAR-10; or
`synthetic`, which makes images of the same number and shape. The time includes training and the test with six views of
each image. It does not include reading the data and compiling. The compile time has its own column.
"""

import argparse
import dataclasses
import json
import math
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import RESULTS, write
from benchmarks.suite import numbers, words
from jaxcnn import startup
from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "experiments" / "recipes" / "cifar10_speedrun.py"
TORCH = Path(__file__).parent / "baselines" / "speedrun_torch.py"
TITLE = "CIFAR-10 speedrun"
LIBRARIES = ("jaxcnn", "torch", "torch-compiled")

CASE: dict[str, Any] = {
    "library": "jaxcnn",
    "seed": 0,
    "epochs": 9.9,
    "total_steps": None,
    "dtype": "float32",
    "widths": (64, 256, 256),
    "batch_size": 1024,
    "steps_per_dispatch": 1,
    "data": "synthetic",
}
"""A run. An epoch has whole batches only, as the author counts. `total_steps` replaces `epochs`."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

Arrays = Mapping[str, np.ndarray]


def load(source: str) -> dict[str, np.ndarray]:
    """Return the arrays of a dataset by name: x uint8 `[N, H, W, C]` and y int `[N]`, of training and test images.

    Args:
      source: a NumPy file, a folder with the binary batches of CIFAR-10, "synthetic", or "synthetic:N" for N images.

    Raises:
      UsageError: if there is no such data.
    """
    name, _, count = source.partition(":")
    if name == "synthetic":
        return synthetic(int(count or 50_000))
    path = Path(source)
    if path.is_dir():
        files = {"train": sorted(path.glob("data_batch_*.bin")), "test": sorted(path.glob("test_batch.bin"))}
        if len(files["train"]) != 5 or not files["test"]:
            raise UsageError(f"{path} does not have the six binary batches of CIFAR-10. Give their folder.")
        return {name: array for split, paths in files.items() for name, array in _binary(split, paths).items()}
    if not path.is_file():
        raise UsageError(f"there is no data in {path}. Give a NumPy file, a folder, or 'synthetic'.")
    with np.load(path) as file:
        return {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def _binary(split: str, paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the images and labels of files of 1 byte of label and 3,072 bytes of pixels, channel by channel."""
    rows = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 3073) for path in paths])
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return {f"x_{split}": np.ascontiguousarray(images), f"y_{split}": rows[:, 0].astype(np.int64)}


def synthetic(count: int) -> dict[str, np.ndarray]:
    """Return `count` training images of noise, and a fifth as many test images, whose brightness tells their class."""
    random, arrays = np.random.default_rng(0), {}
    for split, size in (("train", count), ("test", count // 5)):
        labels = random.integers(0, 10, size)
        brightness = (15 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"x_{split}"] = random.integers(0, 100, (size, 32, 32, 3), np.uint8) + brightness
        arrays[f"y_{split}"] = labels
    return arrays


class Timer:
    """Measures the time of each epoch, and of the test; a callback of `fit`.

    Attributes:
      every: steps in an epoch.
      laps: seconds of each epoch that nothing but steps took.
      test_seconds: time of the test when its program is compiled.
    """

    def __init__(self, every: int):
        self.every, self.laps, self.test_seconds = every, list[float](), 0.0

    def on_start(self, run: Any) -> None:
        self._since = None

    def on_step(self, run: Any) -> None:
        run.wait()
        now = time.perf_counter()
        if self._since is not None:  # else the steps since the start include compiling
            self.laps.append(now - self._since)
        self._since = now

    def on_epoch(self, run: Any) -> None:
        run.wait()
        started = time.perf_counter()
        run.evaluate("test")  # again: the first time, it was compiled
        self.test_seconds = time.perf_counter() - started


def train(case: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Train the recipe in this process, or go on with it in the case's folder, and return the result."""
    recipe: Config = runpy.run_path(str(RECIPE))["config"]
    per_epoch = max(1, len(arrays["x_train"]) // case["batch_size"])
    together = case["steps_per_dispatch"]
    timer = Timer(max(1, per_epoch // together) * together)
    config = dataclasses.replace(
        recipe,
        dataset=Config.dataset,  # `data` takes its place
        seed=case["seed"],
        epochs=Config.epochs,
        steps=case["total_steps"] or math.ceil(case["epochs"] * per_epoch),
        dtype=case["dtype"],
        batch_size=case["batch_size"],
        model_options=(f"widths={tuple(case['widths'])}".replace(" ", ""),),
        steps_per_dispatch=together,
        checkpoint_every=None if together > 1 else per_epoch,
        workdir=str(Path(case["folder"]) / "run"),
        progress=False,
    )
    data = from_arrays(
        train=(arrays["x_train"], arrays["y_train"]), test=(arrays["x_test"], arrays["y_test"]), class_names=CLASSES
    )
    result = fit(config, data=data, callbacks=[timer])
    values, images = result.values, result.values["steps"] * result.values["batch_size"]
    rate = values["images_per_second"]
    return {
        "test_accuracy": result.test_accuracy,
        "steps": values["steps"],
        "epoch_seconds": timer.laps,
        "train_seconds": images / rate if rate else None,
        "test_seconds": timer.test_seconds,
        "compile_seconds": values["compile_seconds"],
        "versions": ", ".join(f"{name} {values['versions'][name]}" for name in ("jaxcnn", "jax")),
        "device_kind": values["device_kind"],
    }


def measure(case: Mapping[str, Any], python: str = sys.executable, timeout: float | None = None) -> dict[str, Any]:
    """Return the row of a run in a process of its own, with an error if it fails or exceeds `timeout` seconds.

    Args:
      case: see `CASE`; also "folder", where a stopped run is stored.
      python: path of the interpreter.
      timeout: time limit in seconds.
    """
    folder = Path(case["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        case = {**case, "compile": case["library"] == "torch-compiled"}
        if case["library"] == "jaxcnn":
            command = [python, "-m", "benchmarks.speedrun", "--case", json.dumps(case)]
        else:
            np.savez(file.name, **load(case["data"]))  # type: ignore[arg-type]
            command = [python, str(TORCH), json.dumps(case), file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
        except subprocess.TimeoutExpired:
            return _row(case, {}, f"took more than {timeout:.0f} s")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return _row(case, {}, lines[-1][:200] if lines else f"status {done.returncode}")
    return _row(case, json.loads(done.stdout.splitlines()[-1]), None)


def _row(case: Mapping[str, Any], result: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    columns = {name: value for name, value in case.items() if name not in ("folder", "compile")}
    row = {**columns, **result, "error": error}
    if result.get("train_seconds") is not None:
        row["seconds"] = result["train_seconds"] + result["test_seconds"]
    return json.loads(json.dumps(row))


def is_of(row: Mapping[str, Any], case: Mapping[str, Any]) -> bool:
    """Return whether a row is that of a case."""
    return all(row[name] == json.loads(json.dumps(case[name])) for name in CASE)


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table, followed by the means of each library."""
    lines = [
        "| library | seed | dtype | steps | seconds | of which test | seconds per epoch | compile seconds | accuracy |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        start = f"| {row['library']} | {row['seed']} | {row['dtype']} |"
        if row["error"]:
            lines.append(f"{start} | | | | | {row['error']} |")
            continue
        seconds = "" if row.get("seconds") is None else f"{row['seconds']:.1f}"
        epoch = f"{statistics.median(row['epoch_seconds']):.1f}" if row["epoch_seconds"] else ""
        lines.append(
            f"{start} {row['steps']} | {seconds} | {row['test_seconds']:.1f} | {epoch} | "
            f"{row['compile_seconds']:.1f} | {row['test_accuracy']:.2%} |"
        )
    text = "\n".join(lines) + "\n"
    for library in dict.fromkeys(row["library"] for row in rows):
        done = [row for row in rows if row["library"] == library and not row["error"]]
        if done:
            accuracies = [row["test_accuracy"] for row in done]
            deviation = f", standard deviation {statistics.stdev(accuracies):.2%}" if len(done) > 1 else ""
            times = [row["seconds"] for row in done if row.get("seconds") is not None]
            median = f"; median {statistics.median(times):.1f} s" if times else ""
            mean = statistics.mean(accuracies)
            text += f"\n{library}: mean accuracy {mean:.2%}{deviation}, {len(done)} runs{median}.\n"
    return text


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.speedrun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--seeds", type=numbers, default="0", help="seeds, in order (default: %(default)s)")
    flags.add_argument(
        "--library", type=words, default="jaxcnn,torch", help=f"any of: {', '.join(LIBRARIES)} (default: %(default)s)"
    )
    flags.add_argument("--epochs", type=float, default=CASE["epochs"], help="default: %(default)s")
    flags.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    flags.add_argument("--widths", type=numbers, default="64,256,256", help="block widths (default: %(default)s)")
    flags.add_argument("--batch-size", type=int, default=CASE["batch_size"], help="default: %(default)s")
    flags.add_argument("--steps-per-dispatch", type=int, default=1, help="flag of jaxcnn (default: %(default)s)")
    flags.add_argument("--data", default="synthetic", help="see above (default: %(default)s)")
    flags.add_argument(
        "--python", type=words, default="", help="interpreters of libraries: torch=PATH (default: this one)"
    )
    flags.add_argument("--out", type=Path, default=RESULTS / "speedrun", help="default: %(default)s")
    flags.add_argument("--kept", type=Path, help="folder for stopped runs (default: runs/speedrun)")
    flags.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    return flags


def main(args: list[str] | None = None) -> int:
    flags = parser()
    arguments = flags.parse_args(args)
    if arguments.case is not None:
        print(json.dumps(train(arguments.case, load(arguments.case["data"]))))
        return 0
    pythons = dict(item.partition("=")[::2] for item in arguments.python if item)
    for library in (*arguments.library, *pythons):
        if library not in LIBRARIES:
            flags.error(str(unknown_name("library", library, LIBRARIES)))
    given = {name: getattr(arguments, name) for name in ("epochs", "dtype", "widths", "batch_size", "data")}
    stored = arguments.out / "rows.json"
    rows = [row for row in json.loads(stored.read_text())["rows"] if not row["error"]] if stored.exists() else []
    kept = arguments.kept or Path("runs") / "speedrun"
    for seed in arguments.seeds:
        for library in arguments.library:
            case = {**CASE, **given, "library": library, "seed": seed}
            case["steps_per_dispatch"] = arguments.steps_per_dispatch
            if any(is_of(row, case) for row in rows):
                continue
            settings = [library, arguments.dtype, *arguments.widths, f"{arguments.epochs:g}", seed]
            name = "-".join(map(str, settings))
            python = pythons.get(library, sys.executable)
            rows.append(measure({**case, "folder": str((kept / name).resolve())}, python))
            seconds = rows[-1].get("seconds")
            print(f"  {name}: {rows[-1]['error'] or f'{seconds} s'}", file=sys.stderr, flush=True)
            write(arguments.out, TITLE, rows, to_markdown(rows), machine=machine.describe())
    print(to_markdown(rows))
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
