"""Train recipes to their end, store their results, and write the table of results into README.md.

    python -m experiments.published list
    python -m experiments.published run NAME [--seeds 0,1,2] [--runs runs/published] [--data-dir DIR] [--shared]
    python -m experiments.published table [--check]
    python -m experiments.published predict [RECIPE]

`run` trains one network for each seed by `jaxcnn train`. Run directories are RUNS/NAME-seedN. The same command
continues an interrupted run. Finished runs are not trained again. `predict` compiles the recipes that were not run here
for GPUs, and stores the memory and the least time that they need.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import with_table
from experiments.published.entries import ENTRIES, Entry, find
from experiments.published.page import BEGIN, END, figure, table
from experiments.published.predictions import PREDICTIONS, TARGETS, add, predict
from experiments.published.store import RESULTS, collect, read, write
from jaxcnn.cli import tell
from jaxcnn.errors import RunError, UsageError, unknown_name
from jaxcnn.train.runtime.workdir import RESULT

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RUNS = Path("runs") / "published"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m experiments.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("action", choices=tuple(ACTIONS))
    made.add_argument(
        "name", nargs="?", help="run: one of the entries that `list` prints; predict: a recipe (default: all)"
    )
    made.add_argument("--seeds", help="run: seeds, separated by commas (default: those of the entry)")
    made.add_argument(
        "--runs", type=Path, default=Path("runs") / "published", help="run directories (default: %(default)s)"
    )
    made.add_argument("--data-dir", help="run: folder of the prepared datasets")
    made.add_argument("--shared", action="store_true", help="run: other programs use the machine; store no times")
    made.add_argument("--results", type=Path, default=RESULTS, help="stored results (default: %(default)s)")
    made.add_argument("--timeout", type=float, default=1800.0, help="predict: seconds of a compilation (%(default)s)")
    made.add_argument("--predictions", type=Path, default=PREDICTIONS, help="predict: results (default: %(default)s)")
    made.add_argument("--readme", type=Path, default=README, help="page with the markers (default: %(default)s)")
    made.add_argument("--check", action="store_true", help="table: write nothing; exit status 1 if it is outdated")
    return made


def main(args: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    flags = parser().parse_args(args)
    try:
        return ACTIONS[flags.action](flags)
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)


def _list(flags: argparse.Namespace) -> int:
    for entry in ENTRIES:
        done = len(read(entry, flags.results))
        print(f"{entry.name:<26} {entry.accuracy:.2%}  {done} of {entry.seeds} seeds  {shlex.join(entry.command(0))}")
    return 0


def _run(flags: argparse.Namespace) -> int:
    if flags.name is None:
        raise UsageError("run needs the name of an entry. Give one that `list` prints.")
    entry = find(flags.name)
    for seed in _seeds(flags.seeds, entry):
        folder = flags.runs / f"{entry.name}-seed{seed}"
        if not (folder / RESULT).exists():
            words = [*entry.command(seed)[1:], "--workdir", str(folder.resolve())]
            if flags.data_dir:
                words += ["--data-dir", flags.data_dir]
            status = subprocess.run([sys.executable, "-m", "jaxcnn.cli", *words], cwd=ROOT, check=False).returncode
            if status:
                return status
        print(f"wrote {write(entry, collect(entry, folder, flags.shared), flags.results)}")
    figure(entry, read(entry, flags.results)).savefig(
        flags.results / entry.name / "curves.png", metadata={"Software": None}
    )
    return _table(flags)


def _seeds(text: str | None, entry: Entry) -> Sequence[int]:
    if text is None:
        return range(entry.seeds)
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds must be whole numbers, separated by commas: {text}.") from None


def _table(flags: argparse.Namespace) -> int:
    text = flags.readme.read_text()
    new = with_table(text, table(flags.results), BEGIN, END)
    if flags.check:
        if new != text:
            print(f"table is outdated: {flags.readme}. Run python -m experiments.published table.", file=sys.stderr)
        return int(new != text)
    flags.readme.write_text(new)
    return 0


def _predict(flags: argparse.Namespace) -> int:
    if flags.name is not None and flags.name not in TARGETS:
        raise unknown_name("recipe", flags.name, TARGETS)
    failures = 0
    for recipe in TARGETS if flags.name is None else [flags.name]:
        prediction = predict(recipe, timeout=flags.timeout)
        if prediction.hours is None:
            print(f"{recipe}: {prediction.report.error}", file=sys.stderr)
            failures += 1
        else:
            add(prediction, flags.predictions)
            print(f"{recipe}: at least {prediction.hours:.2g} hours on {TARGETS[recipe]}")
    return 1 if failures else 0


ACTIONS = {"list": _list, "run": _run, "table": _table, "predict": _predict}

if __name__ == "__main__":
    sys.exit(main())
