"""Cost of verification: step time of `fit` with `verify_every` relative to that without it.

    python -m benchmarks.verification [--every 100] [--turns 60] [--replay last]

A run with verification and one without it train in one process, in turns of as many steps as lie between two
verifications. So each turn of the first run contains one verification, and the speed of the machine hardly changes
between neighboring turns. Each turn with verification is compared with the mean of the turns right before and right
after it. Both runs share their programs. The time of a turn contains everything that verification adds to it: copies
and hashes of the state, and steps that are made again. It does not contain compiling.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.results import RESULTS, write
from benchmarks.verification.turns import seconds_of_turns
from jaxcnn import startup
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, Verification
from jaxcnn.train.api import versions
from jaxcnn.train.runtime.plan import make_plan

CASES = {"lenet5": {"batch_size": 256}, "resnet20_cifar": {"batch_size": 128}}
"""Models with their batch size."""

TURNS = {"lenet5": 60, "resnet20_cifar": 20}
"""Number of turns of each model, which take about three and ten minutes on two cores."""

RESAMPLES = 10_000


def measure(model: str, verify: Verification, every: int, turns: int) -> dict[str, Any]:
    """Return the time of turns with and without verification, and their ratio."""
    case: dict[str, Any] = CASES[model]
    steps = every * (turns + 1)  # half a turn before the first one, and half a turn behind the last one
    plain = make_plan(Config(model=model, steps=steps, evaluate_every=steps, progress=False, **case))
    verified = dataclasses.replace(plain, config=dataclasses.replace(plain.config, verify_every=every, verify=verify))
    if verified.verifies_norms:
        verified = dataclasses.replace(verified, programs={})
    off, on = (np.array(seconds) for seconds in seconds_of_turns([plain, verified], every))
    # The run without verification begins: each turn of the other one lies between two of its turns, but the last one.
    ratios = on[:-1] / ((off[:-1] + off[1:]) / 2)
    low, high = interval_of_median(ratios)
    return {
        "model": model,
        **case,
        "verify_every": every,
        **dataclasses.asdict(verify),
        "command": f"python -m benchmarks.verification --models {model} --turns {turns} --every {every} "
        f"--replay {verify.replay} --bounds {verify.bounds:g}",
        "milliseconds_off": [round(1000 * x / every, 3) for x in off],
        "milliseconds_on": [round(1000 * x / every, 3) for x in on],
        "ratios": [round(float(x), 4) for x in ratios],
        "median_ratio": round(float(np.median(ratios)), 4),
        "interval": [round(low, 4), round(high, 4)],
        "device": machine.device_name(jax.devices()[0]),
        "devices": len(jax.devices()),
        "versions": versions(),
    }


def interval_of_median(samples: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the median of samples `[N]`, by bootstrap.

    >>> interval_of_median(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)
    """
    chosen = np.random.default_rng(0).integers(len(samples), size=(RESAMPLES, len(samples)))
    low, high = np.percentile(np.median(samples[chosen], axis=1), [2.5, 97.5])
    return float(low), float(high)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="step time with verification relative to that without it")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--turns", type=int, help="turns of each model, 2 or more (default: by the model)")
    parser.add_argument("--replay", choices=("off", "last", "interval"), default="last")
    parser.add_argument("--bounds", type=float, default=0.0)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS / "verification", help="folder for the results")
    arguments = parser.parse_args(args)
    verify = Verification(replay=arguments.replay, bounds=arguments.bounds)
    if arguments.turns is not None and arguments.turns < 2:
        parser.error(f"--turns must be at least 2, got {arguments.turns}")
    rows = [measure(model, verify, arguments.every, arguments.turns or TURNS[model]) for model in arguments.models]
    print(json.dumps(rows, indent=2))
    table = (
        "| model | batch | verify every | replay | turns | off, ms | on, ms | on by off, median | its 95 % interval |\n"
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for row in rows:
        off, on = (np.median(row[f"milliseconds_{name}"]) for name in ("off", "on"))
        low, high = row["interval"]
        table += (
            f"| {row['model']} | {row['batch_size']} | {row['verify_every']} | {row['replay']} | {len(row['ratios'])} "
            f"| {off:.2f} | {on:.2f} | {row['median_ratio']:.3f} | {low:.3f}-{high:.3f} |\n"
        )
    write(arguments.out, "Cost of verification", rows, table)
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
