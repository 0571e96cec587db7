"""What input costs: of a step where images are on the device, and against other loaders where they are on the disk.

    python -m benchmarks.input [--parts resident,small,large] [--cifar10 DATA_DIR] [--peers PYTHON] [--out FOLDER]

Two measurements, each a ratio of figures taken alternately, in one call:

1. "resident": LeNet-5's training step at batch 256 on batches of the pipeline, with the images kept decoded, against
   the same step on one batch that never changes.
2. "small", "large": images per second of streaming, encoded on the disk, decoded for each batch: CIFAR-10's PNG files
   (of a prepared data set; random images if there is none), and JPEG of 500 x 375 with a random resized crop to 224,
   of jaxcnn, grain's DataLoader, torch's DataLoader and tf.data, with as many workers, one process a figure. All
   antialias where a crop is made smaller; tf.data is timed also without, as is its default, which is less work.
   Workers are, of jaxcnn, batches that are made at once; small PNG files are decoded by as many threads as cores.
   `--peers` is the Python in which torch and TensorFlow are; what is not installed is a row that says so.

The parts may be measured by several calls: what `--out` has of the others is kept.
"""

import argparse
import json
import os
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
from benchmarks.results import RESULTS, write
from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config
from jaxcnn.train.runtime.loop import versions
from jaxcnn.train.runtime.plan import make_plan

PARTS = ("resident", "small", "large")
IN_PEERS_PYTHON = ("torch DataLoader", "tf.data", "tf.data, not antialiased")
FIGURES = ("images_per_second", "images_per_processor_second")
TIMEOUT = 60.0  # seconds that one loader may take over its own


def resident(repeats: int, steps: int = 100) -> dict[str, Any]:
    """The step with and without input, in milliseconds, and the median of the ratios of neighbouring runs."""
    plan = make_plan(Config(batch_size=256))
    step = plan.compile_train_step()
    pipeline = open_pipeline(plan.dataset, 256)
    state = plan.parallel.place_state(plan.initial_state())
    fresh = pipeline.batches(place=plan.parallel.place_batch)
    same = next(fresh)
    state, _ = step(state, same)
    without, with_input, without_busy, with_busy = [], [], [], []
    for _ in range(repeats):
        for times, busy, batches in ((without, without_busy, _always(same)), (with_input, with_busy, fresh)):
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
        "input_alone_ms": round(1e3 * _alone(pipeline), 4),
    }


def _median_ratio(without: list[float], with_input: list[float]) -> float:
    return round(statistics.median(b / a for a, b in zip(without, with_input, strict=True)), 4)


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


def streaming(
    part: str, images: str, folder: Path, peers: str, seconds: float, repeats: int, workers: int
) -> list[dict[str, Any]]:
    """A row for each loader, timed by turns: its images per second, and jaxcnn's median by its median."""
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
    """The line that a loader in a process of its own prints, or what went wrong."""
    command = [python, "-m", "benchmarks.input_peers", name, str(folder), str(seconds), str(workers)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds + TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"not done in {seconds + TIMEOUT:.0f} s"
    return (run.stdout.strip().splitlines()[-1:] or [" ".join(run.stderr.split())[-200:]])[0]


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


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown: ratios above 1 mean that jaxcnn is faster."""
    lines = []
    for row in rows:
        if row["part"] == "resident":
            lines += [
                f"LeNet-5's step, batch 256, images kept decoded ({row['residence']}): with input "
                f"{row['median_ratio']:.3f} of the time without ({row['median_ratio_of_processor_time']:.3f} of the "
                f"processor time); {statistics.median(row['step_ms']):.2f} ms without, making a batch alone takes "
                f"{row['input_alone_ms']:.3f} ms.\n",
            ]
    lines += ["| images | loader | images/s | images/s of a processor | jaxcnn by it | of processor time |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        if row["part"] == "resident":
            continue
        cells = [f"{statistics.median(row[f]):,.0f}" if f in row else row.get("error", "-") for f in FIGURES]
        cells += [f"{row[f'ratio_of_{f}']:.2f}" if f"ratio_of_{f}" in row else "-" for f in FIGURES]
        lines.append(f"| {row['images']} | {row['loader']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="what input costs, and how fast it streams beside others")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, of resident, small, large")
    parser.add_argument("--cifar10", help="folder of prepared data sets with cifar10 in it")
    parser.add_argument("--peers", default=sys.executable, help="the Python in which torch and TensorFlow are")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--out", type=Path, default=RESULTS / "input", help="folder for the results")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts is of {', '.join(PARTS)}, got {arguments.parts}")
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
    write(arguments.out, "What input costs, and streaming beside other loaders", rows, table(rows))
    print((arguments.out / "rows.md").read_text())


if __name__ == "__main__":
    main()
