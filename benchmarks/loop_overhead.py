"""What the training loop costs: images per second of `fit` against those of the bare compiled step.

    python -m benchmarks.loop_overhead [--epochs 4] [--repeats 3]

The bare step is called in a Python loop on one batch that is already in memory. `fit` does all that it does for
users: it gathers each batch, keeps metrics of every step, draws the progress bar, writes log files. Both are timed
in the same process, alternately, on LeNet-5 at batch 256; the time of tests and of compilation is in neither.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.results import RESULTS, write
from jaxcnn.measure import machine
from jaxcnn.train import Config, fit
from jaxcnn.train.loop import versions
from jaxcnn.train.plan import make_plan


def bare_images_per_second(config: Config, steps: int) -> float:
    plan = make_plan(config)
    step = plan.compile_train_step()
    batch = next(plan.pipeline.batches())
    placed = plan.parallel.place_batch(batch)
    state = plan.parallel.place_state(plan.initial_state())
    state, _ = step(state, placed)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, _ = step(state, placed)
    jax.block_until_ready(state)
    return steps * plan.batch_size / (time.perf_counter() - started)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="images per second of fit against the bare step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "loop_overhead", help="folder for the results")
    arguments = parser.parse_args(args)

    bare, whole = [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            config = Config(batch_size=256, epochs=arguments.epochs, workdir=str(Path(folder) / "run"))
            steps = make_plan(config).steps
            bare.append(bare_images_per_second(config, steps))
            whole.append(fit(config).values["images_per_second"])
    ratios = [w / b for w, b in zip(whole, bare, strict=True)]
    row = {
        "model": "lenet5",
        "batch_size": 256,
        "bare_images_per_second": [round(x) for x in bare],
        "fit_images_per_second": [round(x) for x in whole],
        "ratios": [round(r, 3) for r in ratios],
        "median_ratio": round(statistics.median(ratios), 3),
        "device": machine.device_name(jax.devices()[0]),
        "versions": versions(),
    }
    print(json.dumps(row, indent=2))
    table = (
        "| model | batch | bare step, images/s | fit, images/s | fit by bare step |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        f"| lenet5 | 256 | {statistics.median(bare):,.0f} | {statistics.median(whole):,.0f} "
        f"| {row['median_ratio']:.3f} ({min(ratios):.3f}-{max(ratios):.3f}) |\n"
    )
    write(arguments.out, "What the training loop costs", [row], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
