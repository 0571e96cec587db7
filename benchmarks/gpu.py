"""Everything worth knowing on one machine with an accelerator, in an order of worth, until the time is over.

    python -m benchmarks.gpu [--seconds 520] [--parts headline,sweep,spread,dispatch,peers] [--tiny] [--out DIR]

Needs jax, flax, optax and what `jaxcnn.train` imports; torch and torchvision stand beside it if they are there. What
no time was left for is a row that says so. Results are small: `rows.json`, `rows.csv` and `rows.md` in `--out`, and
the peers' in `--out`/peers. `--tiny` runs every part with small settings, to see on a CPU that it works.
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
from benchmarks.suite import told, words
from jaxcnn.measure import Case, Row, add_scaling, measure_isolated, results
from jaxcnn.measure.row import case_columns

# Less is left than a row of any use takes.
LEAST_SECONDS = 15.0

Plan = list[Case]


def headline() -> Plan:
    return [Case("resnet50", 256, dtype="bfloat16"), Case("resnet50", 256, dtype="float32")]


def sweep() -> Plan:
    """Batches of each model; the middle one of all models first, then the others, and float32 beside bfloat16."""
    batches = {
        "resnet50": (64, 512),
        "resnet18": (512, 128, 2048),
        "vgg16": (128, 32, 256),
        "densenet121": (256, 64, 512),
        "lenet5": (4096, 256, 32768),
    }
    plan = []
    for place in range(3):
        for model, sizes in batches.items():
            if place < len(sizes):
                plan.append(Case(model, sizes[place], dtype="bfloat16"))
                if place == 0:
                    plan.append(Case(model, sizes[place], dtype="float32"))
    return [*plan, Case("resnet50", 256, "infer", "bfloat16"), Case("resnet50", 1, "infer", "bfloat16")]


def spread() -> Plan:
    return [Case("resnet50", 256, dtype="bfloat16", parallel=way) for way in ("shard_map", "jit")] + [
        Case("lenet5", 256, dtype="float32", parallel=way) for way in ("pmap", "shard_map", "jit")
    ]


def dispatch() -> Plan:
    return [
        Case(model, batch, dtype="bfloat16", steps_per_dispatch=many, steps=max(40, many))
        for model, batch, steps in (("lenet5", 256, (1, 100)), ("resnet18", 128, (1, 10)))
        for many in steps
    ]


PARTS = {"headline": headline, "sweep": sweep, "spread": spread, "dispatch": dispatch}
PEER_TASKS = (("resnet50", 256), ("densenet121", 256), ("vgg16", 128), ("resnet18", 512), ("lenet5", 4096))


def tiny(case: Case) -> Case:
    """The case with a small network of its kind, few images and few steps."""
    model = "lenet5" if case.model == "lenet5" else "resnet20_cifar"
    batch, several = (2 if case.batch_size > 64 else 1), (2 if case.steps_per_dispatch > 1 else 1)
    return replace(case, model=model, batch_size=batch, steps=2, steps_per_dispatch=several)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=520.0)
    parser.add_argument("--parts", type=words, default=["headline", "peers", "sweep", "spread", "dispatch"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu")
    arguments = parser.parse_args(args)
    for part in arguments.parts:
        if part not in (*PARTS, "peers"):
            parser.error(f"unknown part {part!r}; known: {', '.join([*PARTS, 'peers'])}")
    until = time.monotonic() + arguments.seconds
    rows: list[Row] = []
    for part in arguments.parts:
        print(f"== {part}, {until - time.monotonic():.0f} s left", flush=True)
        if part == "peers":
            # Half of what is left, so that the parts behind it have their turn.
            share = 1.0 if part == arguments.parts[-1] else 0.5
            run_peers(time.monotonic() + share * (until - time.monotonic()), arguments)
            continue
        for case in dict.fromkeys(map(tiny, PARTS[part]()) if arguments.tiny else PARTS[part]()):
            left = until - time.monotonic()
            if left < LEAST_SECONDS:
                rows.append({**case_columns(case), "error": "not run: no time was left"})
            else:
                rows.append(measure_isolated(case, timeout=left))
            print(f"  {told(rows[-1])}", flush=True)
            add_scaling(rows)
            results.write(arguments.out, rows, "One accelerator", pictures=False)
    if rows:
        with contextlib.suppress(ImportError):  # matplotlib need not be there
            results.write(arguments.out, rows, "One accelerator")
    return 0


def run_peers(until: float, arguments: argparse.Namespace) -> None:
    """jaxcnn, plain Flax and torch beside each other on one task after another, until the time is over."""
    for model, batch in PEER_TASKS:
        left = until - time.monotonic()
        if left < 2 * LEAST_SECONDS:
            print(f"  {model}: not run: no time was left", flush=True)
            continue
        chosen = ["jaxcnn", "torch-compiled", *(["flax", "torch"] if model in ("resnet50", "lenet5") else [])]
        flags = ["--models", model, "--dtypes", "bfloat16", "--batch-size", str(batch), "--peers", ",".join(chosen)]
        if arguments.tiny:
            flags[1] = "lenet5" if model == "lenet5" else "resnet20_cifar"
            flags[5] = "2"
        budget = ["--rounds", "2" if arguments.tiny else "5", "--seconds", "0.1" if arguments.tiny else "1.0"]
        # A third each for the slowest to compile, so that one that hangs does not take everything.
        timeout, out = max(LEAST_SECONDS, left / 3), arguments.out / "peers" / model
        more = ["--timeout", f"{timeout:.0f}", "--here", "--out", str(out)]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            compare([*flags, *budget, *more])
        print(said.getvalue(), flush=True)
        if arguments.tiny and model == PEER_TASKS[1][0]:
            return


if __name__ == "__main__":
    sys.exit(main())
