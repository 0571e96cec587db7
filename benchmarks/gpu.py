"""Run all measurements for one machine with a GPU or TPU, most important first, until the time limit.

    python -m benchmarks.gpu [--seconds 520] [--parts headline,peers,sweep,spread,dispatch] [--tiny] [--out DIR]

Parts:
  headline  ResNet-50 with batch 256, in bfloat16 and float32
  peers     jaxcnn, plain Flax and torch on the same training steps
  sweep     several models and batch sizes
  spread    all ways to distribute a step: pmap, shard_map and jit
  dispatch  one and several steps per call of the compiled program

Requires jax, flax, optax and the other dependencies of `jaxcnn.train`. torch and torchvision are measured if they are
installed. Results are `rows.json`, `rows.csv` and `rows.md` in `--out`, and one folder per model in `--out`/peers.
Cases that do not fit the time limit are rows with an error. `--tiny` runs small versions of all parts, to test this
script on a CPU.
"""

import argparse
import contextlib
import io
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.__main__ import main as compare
from benchmarks.results import RESULTS
from benchmarks.suite import describe, words
from jaxcnn.errors import unknown_name
from jaxcnn.measure import Case, Row, add_scaling, measure_isolated, results
from jaxcnn.measure.row import case_columns

# Cases are skipped if less time is left: no case compiles and runs faster.
MIN_SECONDS = 15.0

Plan = list[Case]


def headline() -> Plan:
    """Return ResNet-50 in bfloat16 and float32."""
    return [Case("resnet50", 256, dtype="bfloat16"), Case("resnet50", 256, dtype="float32")]


def sweep() -> Plan:
    """Return each model with several batch sizes.

    The order is the first batch size of every model, in bfloat16 and float32; then the other batch sizes; then
    inference.
    """
    batch_sizes = {
        "resnet50": (64, 512),
        "resnet18": (512, 128, 2048),
        "vgg16": (128, 32, 256),
        "densenet121": (256, 64, 512),
        "lenet5": (4096, 256, 32768),
    }
    plan = []
    for index in range(3):
        for model, sizes in batch_sizes.items():
            if index < len(sizes):
                plan.append(Case(model, sizes[index], dtype="bfloat16"))
                if index == 0:
                    plan.append(Case(model, sizes[index], dtype="float32"))
    return [*plan, Case("resnet50", 256, "infer", "bfloat16"), Case("resnet50", 1, "infer", "bfloat16")]


def spread() -> Plan:
    """Return ResNet-50 and LeNet-5 with pmap, shard_map and jit, except ResNet-50 with pmap, which is in `headline`."""
    return [
        *(Case("resnet50", 256, dtype="bfloat16", parallel=strategy) for strategy in ("shard_map", "jit")),
        *(Case("lenet5", 256, dtype="float32", parallel=strategy) for strategy in ("pmap", "shard_map", "jit")),
    ]


def dispatch() -> Plan:
    """Return LeNet-5 and ResNet-18 with one step and with several steps per dispatch."""
    settings = (("lenet5", 256, 1), ("lenet5", 256, 100), ("resnet18", 128, 1), ("resnet18", 128, 10))
    return [
        Case(model, batch, dtype="bfloat16", steps_per_dispatch=steps, steps=max(40, steps))
        for model, batch, steps in settings
    ]


PARTS = {"headline": headline, "sweep": sweep, "spread": spread, "dispatch": dispatch}
PEER_TASKS = (("resnet50", 256), ("densenet121", 256), ("vgg16", 128), ("resnet18", 512), ("lenet5", 4096))
TINY_PEER_TASKS = (("resnet50", 2), ("densenet121", 2))


def tiny(case: Case) -> Case:
    """Return the case with a small model, a batch of at most 2 images and 2 steps."""
    return replace(
        case,
        model=_tiny_model(case.model),
        batch_size=2 if case.batch_size > 64 else 1,
        steps=2,
        steps_per_dispatch=min(2, case.steps_per_dispatch),
    )


def _tiny_model(model: str) -> str:
    return "lenet5" if model == "lenet5" else "resnet20_cifar"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=520.0, help="time limit of all parts (default: %(default)s)")
    parts = "headline,peers,sweep,spread,dispatch"
    parser.add_argument("--parts", type=words, default=parts, help="parts, in this order (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="run small versions of all parts, to test this script")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "gpu", help="folder for the results (default: %(default)s)"
    )
    arguments = parser.parse_args(args)
    for part in arguments.parts:
        if part not in (*PARTS, "peers"):
            parser.error(str(unknown_name("part", part, [*PARTS, "peers"])))
    deadline = time.monotonic() + arguments.seconds
    rows: list[Row] = []
    for part in arguments.parts:
        print(f"== {part}, {deadline - time.monotonic():.0f} s left", flush=True)
        if part == "peers":
            # The other half of the time is for the parts that follow.
            fraction = 1.0 if part == arguments.parts[-1] else 0.5
            run_peers(time.monotonic() + fraction * (deadline - time.monotonic()), arguments)
            continue
        plan = PARTS[part]()
        if arguments.tiny:
            plan = list(dict.fromkeys(tiny(case) for case in plan))  # different cases may have the same tiny version
        for case in plan:
            seconds_left = deadline - time.monotonic()
            if seconds_left < MIN_SECONDS:
                rows.append({**case_columns(case), "error": "not run: time limit reached"})
            else:
                rows.append(measure_isolated(case, timeout=seconds_left))
            print(f"  {describe(rows[-1])}", flush=True)
            add_scaling(rows)
            results.write(arguments.out, rows, "One accelerator", pictures=False)
    if rows:
        with contextlib.suppress(ImportError):  # matplotlib is optional
            results.write(arguments.out, rows, "One accelerator")
    return 0


def run_peers(deadline: float, arguments: argparse.Namespace) -> None:
    """Measure jaxcnn, plain Flax and torch on one training step after another until the deadline."""
    for model, batch in TINY_PEER_TASKS if arguments.tiny else PEER_TASKS:
        seconds_left = deadline - time.monotonic()
        if seconds_left < 2 * MIN_SECONDS:
            print(f"  {model}: not run: time limit reached", flush=True)
            continue
        libraries = ["jaxcnn", "torch-compiled"]
        if model in ("resnet50", "lenet5"):
            libraries += ["flax", "torch"]
        flags = {
            "--models": _tiny_model(model) if arguments.tiny else model,
            "--columns": "train-bfloat16",
            "--batch-size": str(batch),
            "--peers": ",".join(libraries),
            "--rounds": "2" if arguments.tiny else "5",
            "--seconds": "0.1" if arguments.tiny else "1.0",
            # One third of the time, so that a library that hangs while compiling leaves time for the others.
            "--timeout": f"{max(MIN_SECONDS, seconds_left / 3):.0f}",
            "--out": str(arguments.out / "peers" / model),
        }
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            compare(["--here", *(word for flag in flags.items() for word in flag)])
        print(output.getvalue(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
