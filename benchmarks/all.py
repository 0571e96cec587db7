"""The whole suite by one command, within a budget of time, and the report on it.

    python -m benchmarks.all [--budget small|full|tiny] [--minutes 25] [--out DIR] [--environments DIR]
                             [--loaders PYTHON] [--cifar10 DIR]

"small" fits two cores and 25 minutes, "full" is for an accelerator or an evening, "tiny" shows that everything runs.
Each suite is a process of its own. What the minutes do not suffice for is cut off, keeps the rows that it has, and
is named at the end.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS
from benchmarks.peers.task import MODELS
from benchmarks.results import RESULTS

# For each budget, suites with their flags, those first without which the others say little. A folder's name may
# differ from its suite's where one is run twice.
BUDGETS: dict[str, list[tuple[str, str, str]]] = {
    "tiny": [
        ("peers", "peers", "--models lenet5 --batch-size 8 --rounds 2 --seconds 0.05"),
        ("batch_sizes", "batch_sizes", "--models lenet5 --batch-sizes 2,4 --steps 2"),
        ("devices", "devices", "--models lenet5 --devices 1,2 --batch-per-device 2 --parallel pmap --steps 2"),
        ("compile", "compile", "--models lenet5"),
        ("loop_overhead", "loop_overhead", "--epochs 1 --repeats 1"),
        ("time_to_accuracy", "time_to_accuracy", "--target 0.7 --epochs 2 --repeats 1"),
        ("input", "input", "--seconds 0.5 --repeats 1"),
    ],
    "small": [
        ("peers", "peers", "--models lenet5,resnet20_cifar,resnet50 --rounds 5 --seconds 1 --timeout 150"),
        ("batch_sizes", "batch_sizes", "--models lenet5,resnet20_cifar --batch-sizes 16,64,256 --steps 8"),
        ("batch_sizes_224", "batch_sizes", "--models resnet50 --batch-sizes 1,4,8 --modes train,infer --steps 5"),
        ("devices", "devices", "--models lenet5 --batch-per-device 32 --steps 10"),
        ("devices_norm", "devices", "--models resnet20_cifar --batch-per-device 8 --parallel pmap --steps 8"),
        ("compile", "compile", "--models lenet5,resnet20_cifar,resnet50,densenet121 --image-size 64"),
        ("loop_overhead", "loop_overhead", "--epochs 2 --repeats 3"),
        ("time_to_accuracy", "time_to_accuracy", "--target 0.85 --epochs 8 --repeats 3"),
        ("input", "input", "--seconds 2 --repeats 2"),
    ],
    "full": [
        ("peers", "peers", f"--models {','.join(MODELS)} --rounds 15 --seconds 2"),
        ("batch_sizes", "batch_sizes", "--models lenet5,resnet20_cifar --batch-sizes 16,64,256,1024"),
        ("batch_sizes_224", "batch_sizes", "--models resnet18,resnet50,vgg16,densenet121 --batch-sizes 1,4,16,64"),
        ("devices", "devices", "--models lenet5,resnet20_cifar,resnet50"),
        ("compile", "compile", ""),
        ("loop_overhead", "loop_overhead", "--epochs 8 --repeats 7"),
        ("time_to_accuracy", "time_to_accuracy", "--target 0.88 --epochs 20 --repeats 10"),
        ("input", "input", ""),
    ],
}


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--minutes", type=float, help="for all of it (default: 25 for small and tiny, none for full)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--environments", type=Path, default=DEFAULT_ENVIRONMENTS, help="of the peers")
    parser.add_argument("--loaders", type=Path, help="the Python in which torch and TensorFlow are, for input")
    parser.add_argument("--cifar10", type=Path, help="folder of prepared data sets with cifar10 in it, for input")
    parser.add_argument("--no-install", action="store_true", help="make no environments for the peers")
    arguments = parser.parse_args(args)
    minutes = arguments.minutes or (None if arguments.budget == "full" else 25.0)
    until = None if minutes is None else time.monotonic() + 60 * minutes

    short = []
    for folder, suite, flags in BUDGETS[arguments.budget]:
        command = [sys.executable, "-m", f"benchmarks.{suite}", *flags.split()]
        if suite == "peers":
            command += ["--environments", str(arguments.environments)]
            command += ["--no-install"] if arguments.no_install else []
        if suite == "input":
            command += ["--peers", str(arguments.loaders)] if arguments.loaders else []
            command += ["--cifar10", str(arguments.cifar10)] if arguments.cifar10 else []
        out = arguments.out / folder
        out.mkdir(parents=True, exist_ok=True)
        command += ["--out", str(out)]
        print(f"== {folder}", flush=True)
        started = time.monotonic()
        problem = _run(command, None if until is None else until - started)
        print(f"== {folder}: {problem or 'done'} in {time.monotonic() - started:.0f} s", flush=True)
        if problem:
            short.append(f"{folder}: {problem}")
    report.main(["--results", str(arguments.out)])
    for line in short:
        print(line, file=sys.stderr)
    return 1 if short else 0


def _run(command: list[str], seconds: float | None) -> str | None:
    """Runs a suite; returns what kept it from its end, or None."""
    if seconds is not None and seconds <= 0:
        return "not run: no time was left"
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "cut off: no time was left"
    finally:
        _end_with_children(process)
    return f"exit status {status}" if status else None


def _end_with_children(process: subprocess.Popen[bytes]) -> None:
    """Ends the suite and the processes of its rows, which a plain kill would leave behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
