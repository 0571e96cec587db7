"""Cost of verification: step time of `fit` with `verify_every` relative to that without it.

    python -m benchmarks.verification [--every 100] [--repeats 5] [--replay last]

Runs with and without verification alternate in one process, and each run with verification is compared with the mean of
the runs right before and right after it, because the speed of a machine drifts. All runs share their programs. The time
of a step contains what verification adds to it: copies and hashes of the state, and steps that are made again. It does
not contain compiling. CPU time is that of whole runs: other programs on the machine change it less, and it contains
three more steps at the start and the same test and checkpoint in each run.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.results import RESULTS, write
from jaxcnn import startup
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, Verification
from jaxcnn.train.api import train_plan, versions
from jaxcnn.train.runtime.plan import Plan, make_plan

CASES = {
    "lenet5": {"batch_size": 256, "steps": 1000},
    "resnet20_cifar": {"batch_size": 128, "steps": 200},
}
"""Models with their batch size, and the number of steps of a run."""


def milliseconds(plan: Plan) -> tuple[float, float]:
    """Return the time of a step of a run: wall-clock time without the first step, and CPU time of the whole run."""
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(plan.config, workdir=str(Path(folder) / "run"))
        started = time.process_time()
        values = train_plan(dataclasses.replace(plan, config=config)).values
        cpu = time.process_time() - started
    return 1000 * plan.batch_size / values["images_per_second"], 1000 * cpu / plan.steps


def measure(model: str, verify: Verification, every: int, repeats: int, steps: int | None) -> dict[str, Any]:
    """Return the time of steps with and without verification in turns."""
    case: dict[str, Any] = {**CASES[model], **({"steps": steps} if steps else {})}
    plain = make_plan(Config(model=model, evaluate_every=case["steps"], progress=False, **case))
    verified = dataclasses.replace(plain, config=dataclasses.replace(plain.config, verify_every=every, verify=verify))
    if verified.verifies_norms:
        verified = dataclasses.replace(verified, programs={})
    milliseconds(verified)  # compiles
    before, off, on = milliseconds(plain), [], []
    for _ in range(repeats):
        on.append(milliseconds(verified))
        after = milliseconds(plain)
        off.append(tuple((a + b) / 2 for a, b in zip(before, after, strict=True)))
        before = after
    ratios, cpu_ratios = ([a[kind] / b[kind] for a, b in zip(on, off, strict=True)] for kind in (0, 1))
    return {
        "model": model,
        **case,
        "verify_every": every,
        **dataclasses.asdict(verify),
        "milliseconds_off": [round(x, 3) for x, _ in off],
        "milliseconds_on": [round(x, 3) for x, _ in on],
        "cpu_milliseconds_off": [round(x, 3) for _, x in off],
        "cpu_milliseconds_on": [round(x, 3) for _, x in on],
        "ratios": [round(r, 4) for r in ratios],
        "median_ratio": round(statistics.median(ratios), 4),
        "cpu_ratios": [round(r, 4) for r in cpu_ratios],
        "median_cpu_ratio": round(statistics.median(cpu_ratios), 4),
        "device": machine.device_name(jax.devices()[0]),
        "devices": len(jax.devices()),
        "versions": versions(),
    }


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="step time with verification relative to that without it")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--replay", choices=("off", "last", "interval"), default="last")
    parser.add_argument("--bounds", type=float, default=0.0)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, help="steps of a run (default: 1000 of lenet5, 200 of resnet20_cifar)")
    parser.add_argument("--out", type=Path, default=RESULTS / "verification", help="folder for the results")
    arguments = parser.parse_args(args)
    verify = Verification(replay=arguments.replay, bounds=arguments.bounds)
    rows = [measure(model, verify, arguments.every, arguments.repeats, arguments.steps) for model in arguments.models]
    print(json.dumps(rows, indent=2))
    table = (
        "| model | batch | steps | verify every | replay | off, ms | on, ms | on by off | CPU time, on by off |\n"
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |\n"
    )
    for row in rows:
        off, on = (statistics.median(row[f"milliseconds_{name}"]) for name in ("off", "on"))
        spread = f"{min(row['ratios']):.3f}-{max(row['ratios']):.3f}"
        table += (
            f"| {row['model']} | {row['batch_size']} | {row['steps']} | {row['verify_every']} | {row['replay']} "
            f"| {off:.2f} | {on:.2f} | {row['median_ratio']:.3f} ({spread}) "
            f"| {row['median_cpu_ratio']:.3f} ({min(row['cpu_ratios']):.3f}-{max(row['cpu_ratios']):.3f}) |\n"
        )
    write(arguments.out, "Cost of verification", rows, table)
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
