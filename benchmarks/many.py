"""Measure the cost of training many networks: in one program, in turns, and in processes.

    python -m benchmarks.many [--networks 1,10,100] [--how together,turns,processes] [--epochs 1]
                              [--data bundled|synthetic]

The networks are LeNet-5 at batch 64, and differ in their seeds. Each row is one call of `jaxcnn.train.fit_many` in a
fresh process, without a cache of compiled programs. The time includes the start of JAX, compiling, training,
evaluations, and writing the run directory of each network. Column "networks' cost" is that time divided by the time of
one network in turns. Processes are measured on a CPU only. Synthetic images have the number and the shape of the images
inside the package, and do not need tensorflow-datasets.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.results import RESULTS, write
from benchmarks.suite import numbers, words
from jaxcnn import startup
from jaxcnn.data import Dataset, from_arrays
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit_many

TITLE = "Many networks at once"
WAYS = ("together", "turns", "processes")
DATA = ("bundled", "synthetic")


def measure(case: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Return the row of one call in a fresh process, with an error if it fails or exceeds `timeout` seconds.

    Args:
      case: "model", "batch_size", "epochs", "data", "networks" and "how".
      timeout: time limit in seconds.
    """
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "benchmarks.many", "--case", json.dumps(case)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {**case, "error": f"took more than {timeout:g} s"}
    seconds = time.perf_counter() - started
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {**case, "error": lines[-1][:200] if lines else f"status {done.returncode}"}
    return {**case, **json.loads(done.stdout.splitlines()[-1]), "seconds": seconds, "error": None}


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Train the networks of a case in this process; return what the row says of it."""
    config = Config(model=case["model"], batch_size=case["batch_size"], epochs=case["epochs"], progress=False)
    data = synthetic() if case["data"] == "synthetic" else None
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "sweep"
        results = fit_many(config, seeds=range(case["networks"]), data=data, workdir=workdir, together=case["how"])
    (setting,) = results.settings
    device = jax.local_devices()[0]
    return {
        "steps": setting.runs[0].values["steps"],
        "test_accuracy": setting.statistic("accuracy").mean,
        "devices": len(jax.local_devices()),
        "device_kind": machine.device_name(device),
        "platform": device.platform,
        "machine": machine.describe(),
    }


def synthetic() -> Dataset:
    """Return 10,000 training and 2,000 test images of noise, 28x28, whose brightness tells their class of ten."""
    generator = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(0, 10, count).astype(np.int32)
        noise = generator.integers(0, 100, (count, 28, 28, 1))
        return (noise + 15 * labels[:, None, None, None]).astype(np.uint8), labels

    return from_arrays(train=split(10_000), test=split(2_000))


def with_costs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the time of each network, images per second, and the cost in networks."""
    single = next((r["seconds"] for r in rows if (r["how"], r["networks"]) == ("turns", 1) and not r["error"]), None)
    complete = []
    for row in rows:
        if not row["error"]:
            images = row["networks"] * row["steps"] * row["batch_size"]
            row = {**row, "seconds_per_network": row["seconds"] / row["networks"]}
            row |= {"images_per_second": images / row["seconds"], "cost": row["seconds"] / single if single else None}
        complete.append(row)
    return complete


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    done = [row for row in rows if not row["error"]]
    about = ""
    if done:
        first = done[0]
        about = (
            f"{first['model']}, batch {first['batch_size']}, {first['steps']} steps, on {first['devices']} x "
            f"{first['device_kind']}\n\n"
        )
    lines = [
        "| networks | how | seconds | seconds per network | images/s of all | networks' cost | test accuracy |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        start = f"| {row['networks']} | {row['how']} |"
        if row["error"]:
            lines.append(f"{start} | | | | {row['error']} |")
            continue
        cost = "" if row["cost"] is None else f"{row['cost']:.2f}"
        lines.append(
            f"{start} {row['seconds']:.1f} | {row['seconds_per_network']:.2f} | {row['images_per_second']:,.0f} "
            f"| {cost} | {row['test_accuracy']:.2%} |"
        )
    return about + "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--networks", type=numbers, default="1,10,100", help="numbers of networks (default: %(default)s)"
    )
    parser.add_argument("--how", type=words, default=",".join(WAYS), help="ways to train (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=1.0, help="epochs of each network (default: %(default)s)")
    parser.add_argument("--data", choices=DATA, default="bundled", help="images to train on (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "many", help="folder for the results")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args(args)
    if arguments.case:
        startup.settle()
        print(json.dumps(run_case(json.loads(arguments.case))))
        return 0
    rows: list[dict[str, Any]] = []
    for networks in arguments.networks:
        for how in arguments.how:
            case = {"model": arguments.model, "batch_size": arguments.batch_size, "epochs": arguments.epochs}
            row = measure({**case, "data": arguments.data, "networks": networks, "how": how}, arguments.timeout)
            rows.append(row)
            print(
                f"  {networks} {how}: {row['error'] or format(row['seconds'], '.1f') + ' s'}",
                file=sys.stderr,
                flush=True,
            )
            complete = with_costs(rows)
            write(arguments.out, TITLE, complete, to_markdown(complete))
    print(to_markdown(with_costs(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
