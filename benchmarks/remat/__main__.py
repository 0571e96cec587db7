"""Hold the memory that `remat=SIZE` predicts against what compiled training steps need.

    python -m benchmarks.remat [--targets v5e:1x1,h100] [--cases resnet50:False,resnet50:3GB] [--minutes 10]

Nothing runs on an accelerator; the compilers of `pip install 'jaxcnn[aot-tpu,aot-cuda]'` run on the CPU. Each result is
written when it is complete. The same command continues after an interruption: it skips rows that exist, unless
`--again` is given.
"""

import argparse
import sys
import time
from pathlib import Path

import jax

from benchmarks.remat.predicted import plans
from benchmarks.remat.rows import Row, add, key
from benchmarks.results import RESULTS, read_lines
from jaxcnn.aot import compile_for
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config

TARGETS = "v5e:1x1,h100"
CASES = (
    *("resnet50:False", "resnet50:3GB", "resnet50:2GB"),
    *("vgg16:False", "vgg16:1.5GB"),
    *("densenet121:False", "densenet121:3GB"),
    *("resnet152:False", "resnet152:3GB"),
    *("googlenet_bn:False", "googlenet_bn:1.5GB"),
)
BATCH = {"resnet50": 128, "resnet152": 64, "densenet121": 128, "googlenet_bn": 128, "vgg16": 64}
"""Images on each chip."""


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.remat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default=TARGETS, help="as for `jaxcnn compile --for` (default: %(default)s)")
    parser.add_argument("--cases", default=",".join(CASES), help="models and values of remat (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "remat", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of a compilation (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="start no compilation after this time (default: no limit)")
    parser.add_argument("--again", action="store_true", help="compile rows again that exist")
    flags = parser.parse_args(args)
    jax.config.update("jax_platforms", "cpu")  # predictions come from shapes, and the compilers run in other processes
    done = set() if flags.again else {key(row) for row in read_lines(flags.out) if row["error"] is None}
    cases = [(target, *case.split(":")) for target in flags.targets.split(",") for case in flags.cases.split(",")]
    cases = [case for case in cases if case not in done]
    deadline = None if flags.minutes is None else time.monotonic() + 60 * flags.minutes
    failures = 0
    for index, (target, model, remat) in enumerate(cases):
        if deadline is not None and time.monotonic() > deadline:
            print(f"time limit reached, {len(cases) - index} compilations left", flush=True)
            return 1
        row = measure(target, model, remat, flags.timeout)
        failures += row["error"] is not None
        add(flags.out, row)
        print(f"{target} {model} remat={remat}: {row['error'] or row['temporaries']}", flush=True)
    return 1 if failures else 0


def measure(target: str, model: str, remat: str, timeout: float) -> Row:
    """Return the row of a step that recomputes what `remat` asks for: "False", or a size."""
    batch = BATCH[model]
    config = Config(model=model, dtype="bfloat16", batch_size=batch, model_options=(f"remat={remat}",))
    report = compile_for(target, config, per_device=True, timeout=timeout)
    return {
        "target": target,
        "model": model,
        "remat": remat,
        "batch": batch,
        **plans(model, batch, remat),
        "compiler": report.compiler,
        "temporaries": None if report.memory is None else report.memory.temporaries,
        "bytes_accessed": report.bytes_accessed,
        "error": report.error,
        "date": machine.now(),
    }


if __name__ == "__main__":
    sys.exit(main())
