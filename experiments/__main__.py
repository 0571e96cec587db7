"""The command `python -m experiments`."""

import argparse
import sys
from pathlib import Path

from jaxcnn import startup
from jaxcnn.cli import tell
from jaxcnn.errors import RunError, UsageError


def main(args: list[str] | None = None) -> int:
    """Run experiments, or generate the gallery. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description="Test claims about convolutional networks on real images.",
        epilog="NAME is the name of an experiment or the number of its claim (C4). `all` runs every experiment; `list` "
        "lists them; `gallery` generates the page of all results; `redraw` updates figures and conclusions from "
        "the stored results, without measuring.",
    )
    parser.add_argument("name", metavar="NAME|all|list|gallery|redraw")
    parser.add_argument(
        "--budget", default="small", help="tiny (seconds), small (minutes on two cores) or full (an accelerator)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of networks trained per configuration")
    parser.add_argument("--out", type=Path, help="folder of the results (default: experiments/results for small)")
    parser.add_argument("--kept", type=Path, help="folder of stored measurements (default: runs/experiments)")
    parser.add_argument("--fresh", action="store_true", help="measure again, ignoring stored measurements")
    parser.add_argument(
        "--check", action="store_true", help="gallery: write nothing; exit status 1 if the page is out of date"
    )
    arguments = parser.parse_args(args)
    try:
        return _run(arguments)
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)


def _run(arguments: argparse.Namespace) -> int:
    # Imported after the command line is parsed, so that a mistake in it is reported without delay.
    from experiments import gallery
    from experiments.experiment import BUDGETS, find_experiment, load_experiments
    from experiments.run import KEPT, RESULTS, redraw, run
    from jaxcnn.errors import unknown_name

    name, budget = arguments.name, arguments.budget
    if budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS)
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    results = arguments.out or (RESULTS if budget == "small" else KEPT / budget)
    if name == "list":
        for experiment in load_experiments().values():
            print(f"{experiment.claim:<4} {experiment.name:<24} {experiment.title}")
    elif name == "gallery":
        page = gallery.page(results)
        if arguments.check:
            is_current = gallery.PAGE.exists() and gallery.PAGE.read_text() == page
            print("the gallery is up to date" if is_current else f"{gallery.PAGE} is out of date")
            return 0 if is_current else 1
        gallery.PAGE.write_text(page)
        print(f"wrote {gallery.PAGE}")
    elif name == "redraw":
        for experiment in load_experiments().values():
            redraw(experiment, results / experiment.name)
    else:
        chosen = list(load_experiments().values()) if name == "all" else [find_experiment(name)]
        kept = arguments.kept or KEPT
        for experiment in chosen:
            folder = results / experiment.name
            run(experiment, budget, range(arguments.seeds), folder, kept=kept, fresh=arguments.fresh, report=_print)
            print(f"wrote {folder}")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
