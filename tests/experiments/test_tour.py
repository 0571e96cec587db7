"""The notebook runs from top to bottom, as its readers run it."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    return [line for output in cell["outputs"] for line in output.get("text", ())]


def kinds(notebook):
    return [[sorted(output.get("data", [])) for output in cell["outputs"]] for cell in code(notebook)]


@pytest.mark.slow
def test_the_tour_runs_and_its_stored_outputs_have_every_picture(tmp_path):
    path = tmp_path / "tour.ipynb"
    shutil.copy(EXPERIMENTS / "tour.ipynb", path)
    stored = json.loads(path.read_text())
    # In a process of its own, which has one device.
    command = [sys.executable, "-W", "error", str(EXPERIMENTS / "notebook.py"), path.name]
    subprocess.run(command, cwd=tmp_path, check=True)
    made = json.loads(path.read_text())
    accuracies = [float(line.split("%")[0]) for cell in code(made) for line in printed(cell) if "% of" in line]
    assert len(accuracies) == 2
    assert min(accuracies) > 70
    assert kinds(made) == kinds(stored)
    assert sum("image/png" in data for cell in kinds(stored) for data in cell) >= 6
    assert (EXPERIMENTS / "tour.ipynb").stat().st_size < 300_000


def test_an_error_in_a_cell_is_not_swallowed():
    execute = runpy.run_path(str(EXPERIMENTS / "notebook.py"))["execute"]
    with pytest.raises(ZeroDivisionError):
        execute({"cells": [{"cell_type": "code", "source": ["1 + 1\n", "1 / 0"]}]})
