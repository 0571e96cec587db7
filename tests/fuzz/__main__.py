"""Try command lines and damaged files: `python -m tests.fuzz --cases 500 --seed 0`, or one case: `--case 123`.

Every answer must be success, or one line and status 2, in less than 10 seconds and 2 GB. Exit status 1 if one is not.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .campaign import run_cases
from .cases import make
from .report import Report
from .runner import Workplace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=500, help="number of cases (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the cases, instead of --first and --cases")
    parser.add_argument("--case", type=int, help="run this case alone, and print what it prints")
    parser.add_argument("--children", type=int, choices=(1, 2), default=1, help="processes that run cases")
    parser.add_argument("--verbose", action="store_true", help="print every command with its answer")
    parser.add_argument("--report", type=Path, help="JSON file to which the report of this run is added")
    args = parser.parse_args()
    if args.case is not None:
        return run_alone(args.seed, args.case)
    numbers = args.only or range(args.first, args.first + args.cases)
    report = Report(args.seed, numbers)
    started = time.monotonic()
    for case, outcome, faults in run_cases(args.seed, numbers, args.children):
        report.add(case, outcome, faults)
        report.seconds = time.monotonic() - started
        if args.verbose:
            answer = (outcome.stderr.strip() or outcome.ended or "no error").splitlines()[-1]
            damage = "".join(f" [{line}]" for line in outcome.damage)
            print(f"{case.number}: {case.shown[:300]}{damage}")
            print(f"    {outcome.seconds:.2f} s, {outcome.status}: {answer[:300]}")
        for fault in faults:
            print(f"{case.number}: {fault.kind}: {fault.cause}: {case.shown[:200]}", flush=True)
        if report.cases % 100 == 0:
            print(
                f"{report.cases} cases, {report.failures} failures, {report.seconds:.0f} s", file=sys.stderr, flush=True
            )
        if args.report is not None and report.cases % 500 == 0:
            report.write(args.report)
    if args.report is not None:
        report.write(args.report)
    for group in report.groups():
        print(f"{group['count']:5} {group['kind']}: {group['cause']}")
        print(f"      {group['reproduce']}: {group['command'][:160]} {group['damage'] or ''}")
    print(f"{report.cases} cases, {report.failures} failures, {report.seconds / max(report.cases, 1):.3f} s a case")
    return 1 if report.failures else 0


def run_alone(seed: int, number: int) -> int:
    case = make(seed, number)
    with tempfile.TemporaryDirectory() as scratch, Workplace(Path(scratch)) as workplace:
        print(case.shown, flush=True)
        outcome, faults = workplace.run(case)
    for line in outcome.damage:
        print(f"damaged {line}")
    print(f"-- stdout\n{outcome.stdout}-- stderr\n{outcome.stderr}--")
    print(f"status {outcome.status}, {outcome.seconds:.2f} s, {outcome.peak / 1e6:.0f} MB {outcome.ended}")
    for fault in faults:
        print(f"{fault.kind}: {fault.cause}\n{fault.detail}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
