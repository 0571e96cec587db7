"""Training steps of several libraries in turns; the parts `resnet50` and `peers`."""

import contextlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.run import MIN_SECONDS, TIME_LIMIT, Run
from benchmarks.peers.__main__ import TITLE
from benchmarks.peers.__main__ import main as compare
from benchmarks.peers.result_tables import to_markdown
from benchmarks.results import write


@dataclass(frozen=True)
class Task:
    """A training step in bfloat16, and the libraries that make it in turns."""

    model: str
    batch: int
    libraries: tuple[str, ...] = ("jaxcnn", "torch-compiled")


RESNET50 = tuple(Task("resnet50", batch) for batch in (256, 128, 64))
PEERS = (
    Task("lenet5", 4096, ("jaxcnn", "torch-compiled", "flax", "torch")),
    Task("resnet50", 256, ("jaxcnn", "flax", "torch")),
    Task("densenet121", 256),
    Task("vgg16", 128),
    Task("resnet18", 512),
)
TINY = {"resnet50": (Task("resnet20_cifar", 2),), "peers": (Task("lenet5", 2, ("jaxcnn", "flax", "torch")),)}


def resnet50(run: Run) -> list[dict[str, Any]]:
    return run_tasks(TINY["resnet50"] if run.tiny else RESNET50, run)


def peers(run: Run) -> list[dict[str, Any]]:
    return run_tasks(TINY["peers"] if run.tiny else PEERS, run)


def run_tasks(tasks: Sequence[Task], run: Run) -> list[dict[str, Any]]:
    """Measure the tasks until the deadline, each also in a folder of its own; write all rows after each one.

    A task is started only if there is time for one as long as that before it, since compiling takes most of its time.
    """
    rows: list[dict[str, Any]] = []
    needed = 2 * MIN_SECONDS
    for task in tasks:
        started = time.monotonic()
        if run.seconds_left < needed:
            columns = {"model": task.model, "mode": "train", "batch_size": task.batch, "dtype": "bfloat16"}
            rows += [{"peer": name, **columns, "error": TIME_LIMIT} for name in task.libraries]
            print(f"  {task.model} batch {task.batch}: {TIME_LIMIT}", flush=True)
        else:
            rows += _measure(task, run)
            needed = max(2 * MIN_SECONDS, time.monotonic() - started)
        write(run.folder, f"{TITLE}, bfloat16", rows, to_markdown([row for row in rows if row["error"] != TIME_LIMIT]))
    return rows


def _measure(task: Task, run: Run) -> list[dict[str, Any]]:
    folder = run.folder / f"{task.model}-{task.batch}"
    flags = {
        "--models": task.model,
        "--columns": "train-bfloat16",
        "--batch-size": str(task.batch),
        "--peers": ",".join(task.libraries),
        "--rounds": "2" if run.tiny else "5",
        "--seconds": "0.1" if run.tiny else "1.0",
        # Each library compiles within its part of the time, so that one that hangs leaves time for the others.
        "--timeout": f"{max(MIN_SECONDS, run.seconds_left / len(task.libraries)):.0f}",
        "--out": str(folder),
    }
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        compare(["--here", *(word for flag in flags.items() for word in flag)])
    print(output.getvalue(), flush=True)
    return json.loads((folder / "rows.json").read_text())["rows"]
