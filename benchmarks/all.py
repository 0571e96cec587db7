"""Run all suites within a time budget, and write the report.

    python -m benchmarks.all [--budget small|full|tiny] [--minutes 25] [--out DIR] [--environments DIR]
                             [--loaders PYTHON] [--cifar10 DIR]

Budgets:
  tiny   only checks that every suite runs
  small  takes up to 25 minutes on two CPU cores
  full   is for a GPU or a run of several hours

Each suite runs in its own process. A suite that exceeds the time limit is stopped and keeps the rows it has measured.
Suites that were stopped, skipped or failed are listed at the end.
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

# For each budget: (folder of the results, suite, flags), most important suites first. The folder differs from the
# suite where a suite runs twice.
BUDGETS: dict[str, list[tuple[str, str, str]]] = {
    "tiny": [
        ("peers", "peers", "--models lenet5 --batch-size 8 --rounds 2 --seconds 0.05"),
        ("batch_sizes", "batch_sizes", "--models lenet5 --batch-sizes 2,4 --steps 2"),
        ("devices", "devices", "--models lenet5 --devices 1,2 --batch-per-device 2 --parallel pmap --steps 2"),
        ("compile", "compile", "--models lenet5"),
        ("loop_overhead", "loop_overhead", "--epochs 1 --repeats 1"),
        ("time_to_accuracy", "time_to_accuracy", "--target 0.7 --epochs 2 --repeats 1"),
        ("many", "many", "--networks 1 --how turns --epochs 0.02"),
        ("transformations", "transformations", "--models lenet5:2 --rounds 1"),
        ("input", "input", "--seconds 0.5 --repeats 1"),
        ("precision/gradients", "precision.gradients", "--models lenet5 --batches 1 --batch-size 4"),
        ("precision/accuracy", "precision.accuracy", "--models lenet5 --seeds 2 --steps 2"),
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
        ("many", "many", "--networks 1,10 --timeout 120"),
        ("transformations", "transformations", "--models lenet5:64 --rounds 5"),
        ("input", "input", "--seconds 2 --repeats 2"),
        ("precision/gradients", "precision.gradients", "--models lenet5,resnet20_cifar"),
        ("precision/accuracy", "precision.accuracy", "--models lenet5"),
    ],
    "full": [
        ("peers", "peers", f"--models {','.join(MODELS)} --rounds 15 --seconds 2"),
        ("batch_sizes", "batch_sizes", "--models lenet5,resnet20_cifar --batch-sizes 16,64,256,1024"),
        ("batch_sizes_224", "batch_sizes", "--models resnet18,resnet50,vgg16,densenet121 --batch-sizes 1,4,16,64"),
        ("devices", "devices", "--models lenet5,resnet20_cifar,resnet50"),
        ("compile", "compile", ""),
        ("loop_overhead", "loop_overhead", "--epochs 8 --repeats 7"),
        ("time_to_accuracy", "time_to_accuracy", "--target 0.88 --epochs 20 --repeats 10"),
        ("many", "many", ""),
        ("transformations", "transformations", ""),
        ("input", "input", ""),
        ("precision/gradients", "precision.gradients", ""),
        ("precision/accuracy", "precision.accuracy", ""),
    ],
}


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", choices=BUDGETS, default="small", help="see above (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="time limit of all suites (default: 25; full: none)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (default: %(default)s)")
    parser.add_argument(
        "--environments",
        type=Path,
        default=DEFAULT_ENVIRONMENTS,
        help="folder for the virtual environments of the baseline libraries (default: %(default)s)",
    )
    parser.add_argument("--loaders", type=Path, help="Python interpreter with torch and TensorFlow (suite input)")
    parser.add_argument("--cifar10", type=Path, help="folder with the prepared dataset cifar10 (suite input)")
    parser.add_argument("--no-install", action="store_true", help="create no virtual environments")
    arguments = parser.parse_args(args)
    minutes = arguments.minutes or (None if arguments.budget == "full" else 25.0)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    incomplete = []
    for folder, suite, flags in BUDGETS[arguments.budget]:
        command = [sys.executable, "-m", f"benchmarks.{suite}", *flags.split()]
        if suite in ("peers", "precision.gradients"):
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
        problem = _run(command, None if deadline is None else deadline - started)
        print(f"== {folder}: {problem or 'done'} in {time.monotonic() - started:.0f} s", flush=True)
        if problem:
            incomplete.append(f"{folder}: {problem}")
    report.main(["--results", str(arguments.out)])
    for line in incomplete:
        print(line, file=sys.stderr)
    return 1 if incomplete else 0


def _run(command: list[str], seconds: float | None) -> str | None:
    """Run a suite for at most `seconds` seconds, and return why it did not finish, or None if it did."""
    if seconds is not None and seconds <= 0:
        return "not run: time limit reached"
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "stopped: time limit reached"
    finally:
        _kill_process_group(process)
    return f"exit status {status}" if status else None


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the suite and its child processes, which would survive if only the suite were killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
