"""The notebook runs from top to bottom."""

import json
import runpy
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
execute = runpy.run_path(str(EXPERIMENTS / "notebook.py"))["execute"]


def printed(cell):
    return "".join(line for output in cell["outputs"] for line in output.get("text", ()))


def test_the_tour_runs_and_its_stored_outputs_have_every_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (EXPERIMENTS / "tour.ipynb").read_text()
    stored = json.loads(text)
    code = [cell for cell in execute(stored)["cells"] if cell["cell_type"] == "code"]
    accuracies = [
        float(printed(cell).rpartition("\n")[0].rpartition("\n")[2].split("%")[0])
        for cell in code
        if "% of" in printed(cell)
    ]
    assert len(accuracies) == 2
    assert min(accuracies) > 70
    kinds = [[sorted(output.get("data", [])) for output in cell["outputs"]] for cell in code]
    assert kinds == [
        [sorted(o.get("data", [])) for o in cell["outputs"]] for cell in stored["cells"] if cell["cell_type"] == "code"
    ]
    assert sum("image/png" in data for cell in kinds for data in cell) >= 6
    assert len(text) < 300_000


def test_an_error_in_a_cell_is_not_swallowed():
    cell = {"cell_type": "code", "source": ["1 + 1\n", "1 / 0"]}
    with pytest.raises(ZeroDivisionError):
        execute({"cells": [cell]})
