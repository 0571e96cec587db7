"""Seconds to 94 % on CIFAR-10; the part `speedrun`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.run import NotRunError, Run
from benchmarks.results import write

RECIPE = Path(__file__).parents[2] / "experiments" / "recipes" / "cifar10_speedrun.py"


def speedrun(run: Run) -> list[dict[str, Any]]:
    """Run the recipe as a program, and return a row with the last line that it prints.

    Raises:
      NotRunError: if there is no such recipe.
    """
    if not RECIPE.exists():
        raise NotRunError("no speedrun")
    command = [sys.executable, str(RECIPE)]
    row: dict[str, Any] = {"recipe": RECIPE.name, "result": "", "error": None}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=run.seconds_left)
        lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
        if done.returncode:
            row["error"] = f"ended with status {done.returncode}: {lines[-1][:200] if lines else ''}"
        else:
            row["result"] = lines[-1] if lines else ""
    except subprocess.TimeoutExpired:
        row["error"] = f"took more than {run.seconds_left:.0f} s"
    write(run.folder, "CIFAR-10 speedrun", [row], f"{row['result'] or row['error']}\n")
    return [row]
