"""Measure the overhead of the training loop: images per second of `fit` relative to the bare compiled step.

    python -m benchmarks.loop_overhead [--epochs 4] [--repeats 5]

The bare step is called in a Python loop on one batch on the devices. `fit` also gathers batches, keeps the metrics of
every step, draws the progress bar, writes log files, and saves the checkpoint of each epoch during the next epoch.
Both run in the same process: LeNet-5 at batch 256, with the images inside the package as a TFDS dataset, as arrays, and
as a table of files. Because the speed of a machine drifts, each `fit` is compared with the mean of the bare steps right
before and right after it.

Images per second are those of training alone. Separate columns contain the other parts of a run's time: the first
batch, which includes decoding the dataset; compiling; and evaluations, starts of saves, the curves and the last
checkpoint.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from benchmarks.results import RESULTS, write
from benchmarks.suite import words
from jaxcnn import startup
from jaxcnn.data import Dataset, from_arrays, from_table, open_dataset
from jaxcnn.errors import unknown_name
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit
from jaxcnn.train.api import versions
from jaxcnn.train.runtime.plan import make_plan

SOURCES = ("tfds", "arrays", "table")


def data_of(source: str, folder: Path) -> Dataset | None:
    """Return the images inside the package, as a source of this kind; None for the TFDS dataset itself.

    Args:
      source: one of `SOURCES`.
      folder: where to write the files of a table.
    """
    if source == "tfds":
        return None
    bundled = open_dataset(Config.dataset)
    splits = {split: bundled.read(split) for split in ("train", "test")}
    if source == "arrays":
        return from_arrays(train=splits["train"], test=splits["test"], class_names=bundled.class_names)
    columns: dict[str, list[Any]] = {"path": [], "label": [], "split": []}
    for split, (images, labels) in splits.items():
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / f"{split}-{index}.png"
            Image.fromarray(image[..., 0]).save(path)
            columns["path"].append(str(path))
            columns["label"].append(bundled.class_names[label])
            columns["split"].append(split)
    return from_table(columns, data_dir=folder / "prepared")


def bare_step(config: Config, data: Dataset | None) -> Callable[[], float]:
    """Return a function that makes the steps of a run without the loop, and returns their images per second."""
    plan = make_plan(config, data=data)
    step = plan.compile_train_step()
    placed = next(plan.pipeline.batches(place=plan.parallel.place_batch))
    state, _ = step(plan.parallel.place_state(plan.initial_state()), placed)

    def images_per_second() -> float:
        nonlocal state
        jax.block_until_ready(state)
        started = time.perf_counter()
        for _ in range(plan.steps):
            state, _ = step(state, placed)
        jax.block_until_ready(state)
        return plan.steps * plan.batch_size / (time.perf_counter() - started)

    return images_per_second


def parts_of(result: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a run's parts: its steps but the first, the first batch, compiling, and the rest."""
    images = (result["steps"] - 1) * result["batch_size"]  # the first step counts as compiling
    parts = {
        "steps": images / result["images_per_second"],
        "first batch": result["first_batch_seconds"],
        "compiling": result["compile_seconds"],
    }
    return {**parts, "rest": result["seconds"] - sum(parts.values())}


def measure(source: str, epochs: int, repeats: int) -> dict[str, Any]:
    """Return the images per second of `fit` and of the bare step in turns, for data of this kind."""
    with tempfile.TemporaryDirectory() as files:
        data = data_of(source, Path(files))
        bare = bare_step(Config(batch_size=256, epochs=epochs), data)
        before, beside, whole, parts = bare(), [], [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                config = Config(batch_size=256, epochs=epochs, workdir=str(Path(folder) / "run"))
                values = fit(config, data=data).values
            after = bare()
            beside.append((before + after) / 2)
            whole.append(values["images_per_second"])
            parts.append(parts_of(values))
            before = after
    ratios = [w / b for w, b in zip(whole, beside, strict=True)]
    return {
        "model": "lenet5",
        "data": source,
        "batch_size": 256,
        "epochs": epochs,
        "bare_images_per_second": [round(x) for x in beside],
        "fit_images_per_second": [round(x) for x in whole],
        "ratios": [round(r, 3) for r in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
        "seconds": {name: round(statistics.median(part[name] for part in parts), 2) for name in parts[0]},
        "device": machine.device_name(jax.devices()[0]),
        "versions": versions(),
    }


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="images per second of fit relative to the bare step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=words, default=",".join(SOURCES), help="kinds of data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "loop_overhead", help="folder for the results")
    arguments = parser.parse_args(args)
    for source in arguments.data:
        if source not in SOURCES:
            parser.error(str(unknown_name("kind of data", source, SOURCES)))
    rows = [measure(source, arguments.epochs, arguments.repeats) for source in arguments.data]
    print(json.dumps(rows, indent=2))
    seconds = list(rows[0]["seconds"])
    table = (
        "| model | data | batch | epochs | bare step, images/s | fit, images/s | fit by bare step "
        f"| {' | '.join(f'{name}, s' for name in seconds)} |\n"
        f"| --- | --- |{' ---: |' * (5 + len(seconds))}\n"
    )
    for row in rows:
        bare, whole = (statistics.median(row[f"{name}_images_per_second"]) for name in ("bare", "fit"))
        table += (
            f"| lenet5 | {row['data']} | 256 | {row['epochs']} | {bare:,.0f} | {whole:,.0f} "
            f"| {row['median_ratio']:.3f} ({min(row['ratios']):.3f}-{max(row['ratios']):.3f}) "
            f"| {' | '.join(format(row['seconds'][name], '.2f') for name in seconds)} |\n"
        )
    write(arguments.out, "Overhead of the training loop", rows, table)
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
