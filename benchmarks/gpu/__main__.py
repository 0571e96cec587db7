"""Run the parts: `python -m benchmarks.gpu`. The docstring of the package describes them."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import benchmarks.gpu
from benchmarks.gpu.cases import PLANS, run_plan
from benchmarks.gpu.correctness import correctness
from benchmarks.gpu.many import many
from benchmarks.gpu.run import MIN_SECONDS, NotRunError, Run, WrongError, status
from benchmarks.gpu.speedrun import speedrun
from benchmarks.gpu.turns import peers, resnet50
from benchmarks.gpu.xla import xla
from benchmarks.results import RESULTS
from benchmarks.suite import words
from jaxcnn.errors import unknown_name
from jaxcnn.measure.probes import machine

Part = Callable[[Run], list[dict[str, Any]]]


def _plan(name: str) -> Part:
    title, cases = PLANS[name]
    return lambda run: run_plan(title, cases(), run)


PARTS: dict[str, tuple[float, Part]] = {
    "correctness": (5.0, correctness),
    "resnet50": (12.0, resnet50),
    "speedrun": (3.0, speedrun),
    "sweep": (3.0, _plan("sweep")),
    "many": (3.0, many),
    "peers": (1.0, peers),
    "spread": (1.0, _plan("spread")),
    "dispatch": (1.0, _plan("dispatch")),
    "xla": (2.0, xla),
}
"""The parts in their order, with their weights: a part's fraction of the time left is its weight by all that follow."""


@dataclass(frozen=True)
class Outcome:
    """How a part has ended.

    Attributes:
      part: its name.
      status: "done", "not run" or "failed".
      rows: number of rows.
      seconds: time that it took.
      remark: why it was not run or has failed, or what some rows lack.
    """

    part: str
    status: str
    rows: int
    seconds: float
    remark: str


def run_part(name: str, part: Part, run: Run) -> Outcome:
    """Run a part; an error of it is an outcome."""
    started = time.monotonic()
    ended = partial(_ended, name, started)
    if run.seconds_left < MIN_SECONDS:
        return ended("not run", 0, "time limit reached")
    try:
        rows = part(run)
        state, remark = status(rows)
        return ended(state, len(rows), remark)
    except NotRunError as error:
        return ended("not run", 0, str(error))
    except WrongError as error:
        return ended("failed", 0, str(error))
    except (Exception, SystemExit) as error:  # SystemExit: of the command-line parser of a suite
        traceback.print_exc()
        return ended("failed", 0, f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _ended(name: str, started: float, state: str, rows: int, remark: str) -> Outcome:
    return Outcome(name, state, rows, time.monotonic() - started, remark)


def write_summary(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """Write `summary.md` and `summary.json`, and return the table of the outcomes."""
    lines = ["| part | status | rows | seconds | remark |", "| --- | --- | ---: | ---: | --- |"]
    for outcome in outcomes:
        rows = outcome.rows or ""
        lines.append(f"| {outcome.part} | {outcome.status} | {rows} | {outcome.seconds:.0f} | {outcome.remark} |")
    table = "\n".join(lines) + "\n"
    tables = [table]
    for outcome in outcomes:
        page = folder / outcome.part / "rows.md"
        if page.exists():
            tables.append(f"#{page.read_text()}")  # a level below the title of this page
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.md").write_text(f"# One accelerator, {machine.now()}\n\n" + "\n".join(tables))
    document = {"date": machine.now(), "parts": [vars(outcome) for outcome in outcomes]}
    (folder / "summary.json").write_text(json.dumps(document, indent=1) + "\n")
    return table


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="time limit of all parts (default: %(default)s)")
    parser.add_argument(
        "--parts", type=words, default=",".join(PARTS), help="parts, in this order (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="run small versions of all parts, to test the scripts")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "gpu", help="folder for the results (default: %(default)s)"
    )
    arguments = parser.parse_args(args)
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(str(unknown_name("part", name, PARTS)))
    deadline = time.monotonic() + arguments.seconds
    outcomes: list[Outcome] = []
    for index, name in enumerate(arguments.parts):
        weight, part = PARTS[name]
        left = deadline - time.monotonic()
        # Small versions are all to run: they share one limit.
        fraction = 1.0 if arguments.tiny else weight / sum(PARTS[later][0] for later in arguments.parts[index:])
        share = left * fraction
        print(f"== {name}: {share:.0f} of {left:.0f} s left", flush=True)
        run = Run(arguments.out / name, time.monotonic() + share, arguments.tiny)
        outcomes.append(run_part(name, part, run))
        write_summary(arguments.out, outcomes)
        print(f"  {outcomes[-1].status} {outcomes[-1].remark}", flush=True)
    print(f"== summary\n{write_summary(arguments.out, outcomes)}")
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
