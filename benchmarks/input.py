"""Measure the cost of the input: of images that are kept decoded, and of reading from disk beside other loaders.

    python -m benchmarks.input [--parts resident,small,large] [--cifar10 DATA_DIR] [--peers PYTHON] [--out FOLDER]

One call makes two measurements. Each is a ratio of two programs that take turns:

1. "resident": LeNet-5's training step at batch 256 on the batches that `fit` gives it (`loop.training_batches`), with
   images kept decoded, relative to the same step on one batch that never changes.
2. "small", "large": images per second of reading from disk. The images are decoded for each batch. The small images
   are PNG files of CIFAR-10 (of a prepared dataset, or else random images). The large images are JPEG files of
   500 x 375, with a random resized crop to 224. The loaders are jaxcnn, grain's DataLoader, torch's DataLoader and
   tf.data, each in its own process with the same number of workers. All loaders antialias when they shrink a crop.
   tf.data is also timed without antialiasing, which is its default and less work. A worker of jaxcnn makes whole
   batches, and one thread per core decodes small PNG files. `--peers` is the Python that has torch and TensorFlow. If
   a loader is not installed, its row says so.

A call may measure some of the parts. The rows of the other parts in `--out` are kept.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.peers.pipelines import PIPELINES
from benchmarks.results import RESULTS, write
from jaxcnn.data import TfdsDataset, open_dataset
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config
from jaxcnn.train.api import versions
from jaxcnn.train.runtime.loop import training_batches
from jaxcnn.train.runtime.plan import Plan, make_plan

PARTS = ("resident", "small", "large")
IN_PEERS_PYTHON = ("torch DataLoader", "tf.data", "tf.data, not antialiased")
FIGURES = ("images_per_second", "images_per_processor_second")
TIMEOUT = 60.0  # seconds that one loader may take in addition to its measured time


def resident(repeats: int, steps: int = 100) -> dict[str, Any]:
    """Return the step's milliseconds with and without input, and the median ratio of neighboring runs."""
    plan = make_plan(Config(batch_size=256, steps=repeats * steps + 1))
    step = plan.compile_train_steps(1)
    pipeline = plan.pipeline
    state = plan.parallel.place_state(plan.initial_state())
    fresh = (batches for _, batches in training_batches(plan, first_step=0))
    same = next(fresh)
    state, _ = step(state, same)
    without, with_input, without_busy, with_busy = [], [], [], []
    for _ in range(repeats):
        for times, busy, batches in ((without, without_busy, itertools.repeat(same)), (with_input, with_busy, fresh)):
            jax.block_until_ready(state)
            started, started_busy = time.perf_counter(), time.process_time()
            for _ in range(steps):
                state, _ = step(state, next(batches))
            jax.block_until_ready(state)
            times.append(1e3 * (time.perf_counter() - started) / steps)
            busy.append(1e3 * (time.process_time() - started_busy) / steps)
    return {
        "part": "resident",
        "residence": pipeline.residence,
        "step_ms": [round(x, 3) for x in without],
        "step_with_input_ms": [round(x, 3) for x in with_input],
        "median_ratio": _median_ratio(without, with_input),
        "median_ratio_of_processor_time": _median_ratio(without_busy, with_busy),
        "input_alone_ms": round(1e3 * _alone(plan), 4),
    }


def _median_ratio(without: list[float], with_input: list[float]) -> float:
    return round(statistics.median(b / a for a, b in zip(without, with_input, strict=True)), 4)


def _alone(plan: Plan, batches: int = 300) -> float:
    """Return the seconds that it takes to make one batch and put it on the devices, without steps."""
    made = plan.pipeline.batches(place=plan.parallel.place_batch)
    batch = next(made)
    started = time.perf_counter()
    for _ in range(batches):
        batch = next(made)
    jax.block_until_ready(batch)
    return (time.perf_counter() - started) / batches


def streaming(
    part: str, images: str, folder: Path, peers: str, seconds: float, repeats: int, workers: int
) -> list[dict[str, Any]]:
    """Return a row for each loader, timed in turns: images per second, and jaxcnn's median relative to the loader's."""
    names = [name for name in PIPELINES if part == "large" or name != "tf.data, not antialiased"]
    rows: dict[str, Any] = {name: {"part": part, "images": images, "loader": name} for name in names}
    for _ in range(repeats):
        for name in names:
            said = _run(peers if name in IN_PEERS_PYTHON else sys.executable, name, folder, seconds, workers)
            try:
                figures = [round(float(word)) for word in said.split()]
            except ValueError:
                rows[name]["error"] = said
                continue
            for figure, value in zip(FIGURES, figures, strict=True):
                rows[name].setdefault(figure, []).append(value)
    ours = rows["jaxcnn"]
    for row in rows.values():
        for figure in FIGURES:
            if row is not ours and figure in row and figure in ours:
                ratio = statistics.median(ours[figure]) / statistics.median(row[figure])
                row[f"ratio_of_{figure}"] = round(ratio, 3)
    return list(rows.values())


def _run(python: str, name: str, folder: Path, seconds: float, workers: int) -> str:
    """Return the line that a loader in its own process prints, or what went wrong."""
    command = [python, "-m", "benchmarks.peers.pipelines", name, str(folder), str(seconds), str(workers)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds + TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"not done in {seconds + TIMEOUT:.0f} s"
    return (run.stdout.strip().splitlines()[-1:] or [" ".join(run.stderr.split())[-200:]])[0]


def write_cifar10(folder: Path, data_dir: str | None, count: int = 10_000) -> str:
    """Write `count` training images of CIFAR-10 as files, and the dataset beside them; return what they are."""
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
        assert isinstance(dataset, TfdsDataset)
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
    """Write JPEG files of 500 x 375 with the size of photographs, about 60 kB: smooth random images with noise."""
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


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results in Markdown. Ratios above 1 mean that jaxcnn is faster."""
    lines = []
    for row in rows:
        if row["part"] == "resident":
            lines += [
                f"LeNet-5's step, batch 256, images kept decoded ({row['residence']}): with input "
                f"{row['median_ratio']:.3f} of the time without ({row['median_ratio_of_processor_time']:.3f} of the "
                f"CPU time). The step takes {statistics.median(row['step_ms']):.2f} ms without input, a batch alone "
                f"{row['input_alone_ms']:.3f} ms.\n",
            ]
    lines += ["| images | loader | images/s | images/s of CPU time | jaxcnn / loader | jaxcnn / loader, CPU time |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        if row["part"] == "resident":
            continue
        cells = [f"{statistics.median(row[f]):,.0f}" if f in row else row.get("error", "-") for f in FIGURES]
        cells += [f"{row[f'ratio_of_{f}']:.2f}" if f"ratio_of_{f}" in row else "-" for f in FIGURES]
        lines.append(f"| {row['images']} | {row['loader']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of input, and streaming compared with other loaders")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to measure: resident, small, large")
    parser.add_argument("--cifar10", help="folder of prepared datasets that contains cifar10")
    parser.add_argument("--peers", default=sys.executable, help="Python with torch and TensorFlow")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--out", type=Path, default=RESULTS / "input", help="folder for the results")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"unknown part in --parts {arguments.parts}. Choose from {', '.join(PARTS)}.")
    load = round(os.getloadavg()[0], 2)
    turns = (arguments.peers, arguments.seconds, arguments.repeats, arguments.workers)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "resident" in parts:
            rows.append(resident(max(5, arguments.repeats)))
        if "small" in parts:
            (folder / "small").mkdir()
            images = write_cifar10(folder / "small", arguments.cifar10)
            rows += streaming("small", images, folder / "small", *turns)
        if "large" in parts:
            write_photographs(folder / "large")
            rows += streaming("large", "JPEG of 500 x 375, crop to 224", folder / "large", *turns)
    about = {
        "device": machine.device_name(jax.devices()[0]),
        "cores": os.cpu_count(),
        "load_at_start": load,
        "versions": versions(),
    }
    rows = [{**row, **about} for row in rows]
    before = arguments.out / "rows.json"
    if before.exists():
        rows += [row for row in json.loads(before.read_text())["rows"] if row["part"] not in parts]
    rows.sort(key=lambda row: PARTS.index(row["part"]))
    write(arguments.out, "Cost of input, and streaming compared with other loaders", rows, table(rows))
    print((arguments.out / "rows.md").read_text())


if __name__ == "__main__":
    main()
