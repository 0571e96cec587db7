"""Overhead of the training loop: images per second of `fit` relative to those of the bare compiled step.

    python -m benchmarks.loop_overhead [--epochs 4] [--repeats 5]

The bare step is called in a Python loop on one batch on the devices. `fit` also gathers batches, keeps the metrics of
every step, draws the progress bar, writes log files, and saves each epoch's checkpoint during the steps of the next.
Both run in the same process, LeNet-5 at batch 256. Because the speed of a machine drifts, each `fit` is compared with
the mean of the bare steps right before and right after it.

Images per second are those of training alone. Separate columns contain the rest of a run's time: the first batch, for
which the dataset is decoded; compiling; and tests, starts of saves, the curves and the last checkpoint.
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

from benchmarks.results import RESULTS, write
from jaxcnn import startup
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit
from jaxcnn.train.api import versions
from jaxcnn.train.runtime.plan import make_plan


def bare_step(config: Config) -> Callable[[], float]:
    """Return a function that makes the steps of a run without the loop, and returns their images per second."""
    plan = make_plan(config)
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


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="images per second of fit relative to the bare step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "loop_overhead", help="folder for the results")
    arguments = parser.parse_args(args)

    bare = bare_step(Config(batch_size=256, epochs=arguments.epochs))
    before, beside, whole, parts = bare(), [], [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            config = Config(batch_size=256, epochs=arguments.epochs, workdir=str(Path(folder) / "run"))
            values = fit(config).values
        after = bare()
        beside.append((before + after) / 2)
        whole.append(values["images_per_second"])
        parts.append(parts_of(values))
        before = after
    ratios = [w / b for w, b in zip(whole, beside, strict=True)]
    seconds = {name: round(statistics.median(part[name] for part in parts), 2) for name in parts[0]}
    row = {
        "model": "lenet5",
        "batch_size": 256,
        "epochs": arguments.epochs,
        "bare_images_per_second": [round(x) for x in beside],
        "fit_images_per_second": [round(x) for x in whole],
        "ratios": [round(r, 3) for r in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
        "seconds": seconds,
        "device": machine.device_name(jax.devices()[0]),
        "versions": versions(),
    }
    print(json.dumps(row, indent=2))
    table = (
        "| model | batch | epochs | bare step, images/s | fit, images/s | fit by bare step "
        f"| {' | '.join(f'{name}, s' for name in seconds)} |\n"
        f"| --- |{' ---: |' * (5 + len(seconds))}\n"
        f"| lenet5 | 256 | {arguments.epochs} | {statistics.median(beside):,.0f} | {statistics.median(whole):,.0f} "
        f"| {row['median_ratio']:.3f} ({min(ratios):.3f}-{max(ratios):.3f}) "
        f"| {' | '.join(f'{value:.2f}' for value in seconds.values())} |\n"
    )
    write(arguments.out, "Overhead of the training loop", [row], table)
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
