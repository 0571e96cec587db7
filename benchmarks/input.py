"""What input costs: of a step where images are on the device, and against other loaders where they are on the disk.

    python -m benchmarks.input [--cifar10 DATA_DIR] [--peers PYTHON] [--seconds 6] [--repeats 3] [--out FILE]

Two measurements, each a ratio of figures taken alternately, in one call:

1. LeNet-5's training step at batch 256 on batches of the pipeline, with the images kept decoded, against the same step
   on one batch that never changes.
2. Images per second of streaming, encoded on the disk, decoded for each batch: CIFAR-10's PNG files (of a prepared
   data set; random images if there is none), and JPEG of 500 x 375 with a random resized crop to 224, of jaxcnn,
   grain's DataLoader, torch's DataLoader and tf.data, with as many workers, one process a figure. `--peers` is the
   Python in which torch and TensorFlow are; what is not installed is a row that says so.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.input_peers import PIPELINES
from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.train import Config
from jaxcnn.train.plan import make_plan

IN_PEERS_PYTHON = ("torch DataLoader", "tf.data")


def resident(repeats: int, steps: int = 100) -> dict[str, Any]:
    """The step with and without input, in milliseconds, and the median of the ratios of neighbouring runs."""
    plan = make_plan(Config(batch_size=256))
    step = plan.compile_train_step()
    pipeline = open_pipeline(plan.dataset, 256)
    state = plan.parallel.place_state(plan.initial_state())
    fresh = pipeline.batches(place=plan.parallel.place_batch)
    same = next(fresh)
    state, _ = step(state, same)
    without, with_input = [], []
    for _ in range(repeats):
        for times, batches in ((without, _always(same)), (with_input, fresh)):
            jax.block_until_ready(state)
            started = time.perf_counter()
            for _ in range(steps):
                state, _ = step(state, next(batches))
            jax.block_until_ready(state)
            times.append(1e3 * (time.perf_counter() - started) / steps)
    ratios = [b / a for a, b in zip(without, with_input, strict=True)]
    return {
        "residence": pipeline.residence,
        "step_ms": [round(x, 3) for x in without],
        "step_with_input_ms": [round(x, 3) for x in with_input],
        "median_ratio": round(statistics.median(ratios), 4),
        "input_alone_ms": round(1e3 * _alone(pipeline), 4),
    }


def _always(batch: Any) -> Iterator[Any]:
    while True:
        yield batch


def _alone(pipeline: Any, batches: int = 300) -> float:
    made = pipeline.batches()
    batch = next(made)
    started = time.perf_counter()
    for _ in range(batches):
        batch = next(made)
    jax.block_until_ready(batch)
    return (time.perf_counter() - started) / batches


def streaming(folder: Path, peers: str, seconds: float, repeats: int, workers: int) -> dict[str, Any]:
    """Images per second of each loader, by turns, and the ratio of jaxcnn's median to the best other's."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in PIPELINES}
    rows: dict[str, Any] = {}
    for _ in range(repeats):
        for name in PIPELINES:
            python = peers if name in IN_PEERS_PYTHON else sys.executable
            command = [python, "-m", "benchmarks.input_peers", name, str(folder), str(seconds), str(workers)]
            run = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            )
            said = run.stdout.strip().splitlines()[-1:] or [" ".join(run.stderr.split())[-200:]]
            try:
                clock, processor = map(float, said[0].split())
                rates[name].append((clock, processor))
            except ValueError:
                rows[name] = said[0]
    for name, values in rates.items():
        if values:
            rows[name] = {
                "images_per_second": [round(clock) for clock, _ in values],
                "images_per_processor_second": [round(processor) for _, processor in values],
            }
    for figure in ("images_per_second", "images_per_processor_second"):
        medians = {name: statistics.median(row[figure]) for name, row in rows.items() if isinstance(row, dict)}
        ours = medians.pop("jaxcnn", None)
        if ours is not None and medians:
            rows[f"ratio_of_{figure}_to_the_best_other"] = round(ours / max(medians.values()), 3)
    return rows


def write_cifar10(folder: Path, data_dir: str | None, count: int = 10_000) -> str:
    """10,000 training images of CIFAR-10 as files, and the data set beside them; returns what they are."""
    if data_dir is None:
        random = np.random.default_rng(0)
        for number, split in ((count, "train"), (20, "test")):
            for index in range(number):
                path = folder / "files" / split / str(index % 10)
                path.mkdir(parents=True, exist_ok=True)
                small = Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8))
                small.resize((32, 32), Image.Resampling.BICUBIC).save(path / f"{index}.png")
        open_dataset(f"imagefolder:{folder / 'files'}", folder / "data")
        what = "random PNG of 32 x 32"
    else:
        dataset = open_dataset("cifar10", data_dir)
        for index, example in enumerate(dataset.read_encoded("train", range(count))):
            path = folder / "files" / "train" / str(example.label)
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{index}.png").write_bytes(example.image)
        (folder / "data").mkdir()
        (folder / "data" / "cifar10").symlink_to(dataset.directory.parent.resolve())
        what = "CIFAR-10"
    (folder / "size").write_text("0")
    return what


def write_photographs(folder: Path, count: int = 600) -> None:
    """JPEG of 500 x 375 that weigh what photographs do, about 60 kB: blots with noise."""
    random = np.random.default_rng(0)
    for number, split in ((count, "train"), (4, "test")):
        for index in range(number):
            path = folder / "files" / split / str(index % 2)
            path.mkdir(parents=True, exist_ok=True)
            blots = Image.fromarray(random.integers(256, size=(12, 16, 3), dtype=np.uint8))
            pixels = np.asarray(blots.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
            noisy = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path / f"{index}.jpg", quality=90)
    open_dataset(f"imagefolder:{folder / 'files'}", folder / "data")
    (folder / "size").write_text("224")


def main() -> None:
    parser = argparse.ArgumentParser(description="what input costs, and how fast it streams beside others")
    parser.add_argument("--cifar10", help="folder of prepared data sets with cifar10 in it")
    parser.add_argument("--peers", default=sys.executable, help="the Python in which torch and TensorFlow are")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--out", type=Path, help="file for the result (default: it is printed alone)")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_at_start": [round(x, 2) for x in os.getloadavg()],
        "resident": resident(arguments.repeats),
    }
    turns = (arguments.peers, arguments.seconds, arguments.repeats, arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        small.mkdir()
        what = write_cifar10(small, arguments.cifar10)
        result["streaming_small"] = {"images": what, **streaming(small, *turns)}
        write_photographs(large)
        result["streaming_jpeg_500x375"] = {"crop": 224, **streaming(large, *turns)}
    result["load_at_end"] = [round(x, 2) for x in os.getloadavg()]
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
