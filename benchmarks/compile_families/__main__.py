"""Compile the training step of each family's smallest and largest model for a TPU slice and a GPU.

    python -m benchmarks.compile_families [--targets v5e:2x2,h100] [--models resnet18,resnet152] [--minutes 10]

Nothing runs on an accelerator; the compilers of `pip install 'jaxcnn[aot-tpu,aot-cuda]'` run on the CPU. Each result is
written when it is complete. The same command continues after an interruption: it skips rows that exist, unless
`--again` is given.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.compile_families.families import FAMILIES, SCANNED, family_of
from benchmarks.compile_families.rows import add, key
from benchmarks.results import RESULTS, read_lines
from jaxcnn.aot import Report, compile_for
from jaxcnn.measure.probes import machine
from jaxcnn.models import create_model
from jaxcnn.train import Config

TARGETS = "v5e:2x2,h100"
BATCH = {True: 64, False: 128}
"""Images on each chip, by whether they are as large as ImageNet's."""
LARGE = 200


def config_of(model: str) -> Config:
    """Return the configuration whose step is compiled. The batch size is that of each chip."""
    height = create_model(model).image_shape[0]  # pyright: ignore[reportAttributeAccessIssue]
    options = ("scan_blocks=True",) if model in SCANNED else ()
    return Config(model=model, dtype="bfloat16", batch_size=BATCH[height > LARGE], model_options=options)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_families",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everything = [model for models in FAMILIES.values() for model in models]
    parser.add_argument("--targets", default=TARGETS, help="as for `jaxcnn compile --for` (default: %(default)s)")
    parser.add_argument("--models", default=",".join(everything), help="of those in families.py (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "compile_families", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds of a compilation (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="start no compilation after this time (default: no limit)")
    parser.add_argument("--again", action="store_true", help="compile rows again that exist")
    flags = parser.parse_args(args)
    models = flags.models.split(",")
    for model in models:
        if model not in everything:
            parser.error(f"model is not the smallest or largest of a family: {model}. Give some of: {everything}")
    done = set() if flags.again else {key(row) for row in read_lines(flags.out) if row["report"]["error"] is None}
    cases = [(target, model) for target in flags.targets.split(",") for model in models if (target, model) not in done]
    deadline = None if flags.minutes is None else time.monotonic() + 60 * flags.minutes
    failures = 0
    for index, (target, model) in enumerate(cases):
        if deadline is not None and time.monotonic() > deadline:
            print(f"time limit reached, {len(cases) - index} compilations left", flush=True)
            return 1
        report = compile_for(target, config_of(model), per_device=True, timeout=flags.timeout)
        failures += report.error is not None
        add(flags.out, _row(report))
        print(f"{target} {model}: {report.error or f'{report.compile_cpu_seconds:.0f} s of CPU time'}", flush=True)
    return 1 if failures else 0


def _row(report: Report) -> dict[str, object]:
    return {
        "target": report.target,
        "model": report.model,
        "family": family_of(report.model),
        "date": machine.now(),
        "report": report.to_dict(),
    }


if __name__ == "__main__":
    sys.exit(main())
