"""Measure the wall-clock seconds until `jaxcnn.train.fit` reaches a test accuracy.

    python -m benchmarks.time_to_accuracy [--model lenet5] [--target 0.85] [--repeats 3]

Each repeat has its own seed, and therefore its own initial parameters and order of images. The time begins at the call
of `fit`. It ends when `metrics.jsonl` has the evaluation that reached the target. The time includes the compile time,
which also has its own column.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, write
from jaxcnn import startup
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit
from jaxcnn.train.runtime.record import read_rows


def watch(workdir: Path, target: float, reached: dict[str, Any], stop: threading.Event) -> None:
    """Store in `reached` when the first test of at least `target` appears in a run directory."""
    last = False
    while not reached and not last:
        last = stop.wait(0.1)  # look once more after the end of the run
        for row in read_rows(workdir):
            if row["split"] == "test" and row["accuracy"] >= target:
                reached |= {"at": time.perf_counter(), "epoch": row["epoch"], "accuracy": row["accuracy"]}
                break


def run(config: Config, target: float) -> dict[str, Any]:
    """Make one run; return a row with the seconds and epochs to the target, or with an error."""
    with tempfile.TemporaryDirectory() as folder:
        workdir, reached, stop = Path(folder) / "run", {}, threading.Event()
        watcher = threading.Thread(target=watch, args=(workdir, target, reached, stop))
        started = time.perf_counter()
        watcher.start()
        try:
            result = fit(Config(**{**vars(config), "workdir": str(workdir)}))
        finally:
            stop.set()
            watcher.join()
    row = {
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "target": target,
        "compile_seconds": result.values["compile_seconds"],
        "final_accuracy": result.test_accuracy,
        "error": None if reached else f"{target:.1%} was not reached in {config.epochs:g} epochs",
    }
    if reached:
        row |= {"seconds": reached["at"] - started, "epochs": reached["epoch"], "accuracy": reached["accuracy"]}
    return row


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, followed by their median."""
    lines = ["| model | dataset | target | seed | seconds | compile seconds | epochs | accuracy |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        start = f"| {row['model']} | {row['dataset']} | {row['target']:.1%} | {row['seed']} |"
        if row["error"]:
            lines.append(f"{start} | | | {row['error']} |")
        else:
            lines.append(
                f"{start} {row['seconds']:.1f} | {row['compile_seconds']:.1f} | {row['epochs']:.0f} "
                f"| {row['accuracy']:.2%} |"
            )
    reached = [row["seconds"] for row in rows if not row["error"]]
    if reached:
        lines.append(f"\nMedian {statistics.median(reached):.1f} s over {len(reached)} of {len(rows)} runs.")
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--dataset", default="fashion_mnist_mini")
    parser.add_argument("--data-dir")
    parser.add_argument("--target", type=float, default=0.85)
    parser.add_argument("--epochs", type=float, default=12, help="maximum number of epochs, and length of the schedule")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "time_to_accuracy")
    arguments = parser.parse_args(args)
    rows = []
    for seed in range(arguments.repeats):
        config = Config(
            model=arguments.model,
            dataset=arguments.dataset,
            data_dir=arguments.data_dir,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            seed=seed,
            progress=False,
        )
        rows.append(run(config, arguments.target))
        print(f"  seed {seed}: {rows[-1]['error'] or format(rows[-1]['seconds'], '.1f') + ' s'}", file=sys.stderr)
        write(arguments.out, "Time to accuracy", rows, to_markdown(rows), machine=machine.describe())
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
