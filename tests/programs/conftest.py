"""A folder with the images of a user, and a process that runs programs there."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import open_dataset

# These are programs, not modules with doctests: importing them would run them.
collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]

WORKER = Path(__file__).parent / "worker.py"
TRAIN, TEST = 300, 503
"""Numbers of examples. No number of examples of a batch divides that of the test examples, which is a prime."""


@pytest.fixture(scope="session")
def user_folder(tmp_path_factory):
    """A folder with `fashion.npz`, and with the same images in `pictures/`, which `pictures.csv` lists."""
    folder = tmp_path_factory.mktemp("user")
    dataset = open_dataset("fashion_mnist_mini")
    (x_train, y_train), (x_test, y_test) = dataset.read("train"), dataset.read("test")
    x_train, y_train, x_test, y_test = x_train[:TRAIN, ..., 0], y_train[:TRAIN], x_test[:TEST, ..., 0], y_test[:TEST]
    names = np.array(dataset.class_names)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "class_names": names}
    np.savez(folder / "fashion.npz", **arrays)
    (folder / "pictures").mkdir()
    rows = []
    for number, (image, label) in enumerate(zip([*x_train, *x_test], [*y_train, *y_test], strict=True)):
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
        rows.append((f"{number}.png", names[label], 1 + number % 2 if number < TRAIN else 0))
    with (folder / "pictures.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "fold"), *rows])
    return folder


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, negative for the signal that killed it; its steps; what it printed."""

    status: int
    steps: int
    printed: str


class Worker:
    """A process that runs programs; see `worker.py`."""

    def __init__(self, folder: Path, cache: Path):
        self._output = cache.with_suffix(".txt")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(WORKER.parents[2]),
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "TFDS_DATA_DIR": str(folder / "prepared"),
            },
        )
        assert self._next() == ["ready"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(
        self, program: Path, workdir: Path, *, kill_at: int | None = None, last: int | None = None, delay: float = 0.0
    ) -> Ended:
        """Run a program until it ends.

        With `kill_at`, kill it `delay` seconds after this step, or after its first checkpoint if that is later. The
        program does not make step `last`.
        """
        job = {"program": str(program), "workdir": str(workdir), "output": str(self._output), "last": last}
        print(json.dumps(job), file=self._process.stdin)
        pid, steps = 0, 0
        while True:
            word, *rest = self._next()
            if word == "pid":
                pid = int(rest[0])
            elif word == "step":
                steps += 1
            elif word == "exit":
                return Ended(int(rest[0]), steps, self._output.read_text())
            # The first step may be told before the process's number is.
            if pid and kill_at is not None and steps >= kill_at:
                while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
                    time.sleep(0.01)
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
                kill_at = None

    def _next(self) -> list[str]:
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the worker is gone")
        return line.split()


@pytest.fixture(scope="session")
def worker(user_folder, tmp_path_factory):
    running = Worker(user_folder, tmp_path_factory.mktemp("worker") / "cache")
    yield running
    running.close()
