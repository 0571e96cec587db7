"""The command `python -m experiments`."""

import argparse
import sys
from pathlib import Path

from jaxcnn import startup
from jaxcnn.cli import tell
from jaxcnn.errors import RunError, UsageError


def main(args: list[str] | None = None) -> int:
    """Runs experiments, or makes the gallery; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description="claims about convolutional networks, put to the test on real images",
        epilog="NAME is an experiment or its claim (C4); `all` runs all of them; `list` lists them; `gallery` makes "
        "the page of all results; `redraw` draws their figures again.",
    )
    parser.add_argument("name", metavar="NAME|all|list|gallery|redraw")
    parser.add_argument("--budget", default="small", help="tiny, small (two cores, minutes) or full (an accelerator)")
    parser.add_argument("--seeds", type=int, default=3, help="networks a configuration, which differ in all randomness")
    parser.add_argument("--out", type=Path, help="folder of the results (default: experiments/results for small)")
    parser.add_argument("--kept", type=Path, help="folder of single measurements (default: runs/experiments)")
    parser.add_argument("--fresh", action="store_true", help="measure again what has been measured before")
    parser.add_argument("--check", action="store_true", help="gallery: change nothing; exit status 1 if it would")
    arguments = parser.parse_args(args)
    try:
        return _run(arguments)
    except (UsageError, RunError, KeyboardInterrupt) as error:
        return tell(error)


def _run(arguments: argparse.Namespace) -> int:
    # After the command line has been read, so that a mistake in it is told at once.
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
        made = gallery.page(results)
        if arguments.check:
            is_same = gallery.PAGE.exists() and gallery.PAGE.read_text() == made
            print("the gallery is up to date" if is_same else f"{gallery.PAGE} is not what the results make")
            return 0 if is_same else 1
        gallery.PAGE.write_text(made)
        print(f"written to {gallery.PAGE}")
    elif name == "redraw":
        for experiment in load_experiments().values():
            redraw(experiment, results / experiment.name)
    else:
        chosen = list(load_experiments().values()) if name == "all" else [find_experiment(name)]
        for experiment in chosen:
            folder = results / experiment.name
            kept = arguments.kept or KEPT
            run(experiment, budget, range(arguments.seeds), folder, kept=kept, fresh=arguments.fresh, say=_say)
            print(f"written to {folder}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
