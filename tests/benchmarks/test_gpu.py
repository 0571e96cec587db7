"""The measurements of a machine with a GPU: their plans, their parts, and what happens when one fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import cases, many, one_step, speedrun, turns, xla
from benchmarks.gpu import correctness as correct
from benchmarks.gpu.__main__ import PARTS, main, run_part
from benchmarks.gpu.run import MIN_SECONDS, TIME_LIMIT, NotRunError, Run, WrongError, status
from benchmarks.peers.task import MODELS
from benchmarks.peers.turns import PeerError
from jaxcnn.startup.presets import PRESETS

ROOT = Path(__file__).parents[2]


def a_run(folder, seconds=1000.0, tiny=True):
    return Run(folder, time.monotonic() + seconds, tiny)


def test_the_plans_are_sound_in_full_and_tiny():
    for _, plan in cases.PLANS.values():
        for case in plan():
            case.validate()
        for small in cases.tiny_plan(plan()):
            small.validate()
            assert small.batch_size <= 2
            assert small.steps <= 2
    asked = {(case.model, case.dtype) for _, plan in cases.PLANS.values() for case in plan()}
    models = ("lenet5", "resnet18", "resnet50", "vgg16", "densenet121")
    assert {(model, dtype) for model in models for dtype in ("bfloat16", "float32")} <= asked
    assert {case.parallel for case in cases.spread()} == {"pmap", "shard_map", "jit"}
    assert {task.batch for task in turns.RESNET50} == {64, 128, 256}
    assert {task.model for task in turns.PEERS} <= set(MODELS)
    assert {networks for networks, how in many.CASES if how == "together"} == {1, 10, 100}


def test_parts_without_time_are_rows_and_lines_that_say_so(tmp_path, capsys):
    assert main(["--seconds", "0", "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert [part["part"] for part in parts] == list(PARTS)
    assert {(part["status"], part["remark"]) for part in parts} == {("not run", "time limit reached")}
    assert "| sweep | not run |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sweep", "resnet50", "speedrun", "many", "xla"])
def test_a_part_whose_time_is_up_measures_nothing_more(tmp_path, name):
    rows = PARTS[name][1](a_run(tmp_path, seconds=MIN_SECONDS - 1))
    assert {row["error"] for row in rows} == {TIME_LIMIT}
    assert status(rows) == ("not run", "time limit reached")
    assert json.loads((tmp_path / "rows.json").read_text())["rows"]


def test_a_failed_part_does_not_stop_the_next(tmp_path, monkeypatch, capsys):
    def wrong(run):
        raise WrongError("2 of 3 steps differ")

    def broken(run):
        raise SystemExit("usage")

    def fine(run):
        run.folder.mkdir(parents=True)
        (run.folder / "rows.md").write_text("# Title\n\n| a |\n")
        return [{"error": None}, {"error": "out of memory: 9 GB"}]

    def absent(run):
        raise NotRunError("no speedrun")

    parts = {"wrong": wrong, "broken": broken, "fine": fine, "absent": absent, "all": lambda run: [{"error": "bad"}]}
    monkeypatch.setattr("benchmarks.gpu.__main__.PARTS", {name: (1.0, part) for name, part in parts.items()})
    assert main(["--parts", ",".join(parts), "--out", str(tmp_path)]) == 1
    outcomes = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert [(outcome["part"], outcome["status"], outcome["remark"]) for outcome in outcomes] == [
        ("wrong", "failed", "2 of 3 steps differ"),
        ("broken", "failed", "SystemExit: usage"),
        ("fine", "done", "1 of 2 rows have an error: out of memory: 9 GB"),
        ("absent", "not run", "no speedrun"),
        ("all", "failed", "1 of 1 rows have an error: bad"),
    ]
    assert "## Title\n\n| a |" in (tmp_path / "summary.md").read_text()
    assert "| absent | not run |  | 0 | no speedrun |" in capsys.readouterr().out
    assert main(["--parts", "fine,absent", "--out", str(tmp_path / "again")]) == 0


def test_each_part_gets_its_weight_of_the_time_that_is_left(tmp_path, monkeypatch):
    shares = []

    def part(run):
        shares.append(run.seconds_left)
        return [{"error": None}]

    weights = {"a": (3.0, part), "b": (1.0, part), "c": (1.0, part)}
    monkeypatch.setattr("benchmarks.gpu.__main__.PARTS", weights)
    main(["--parts", "a,b,c", "--seconds", "1000", "--out", str(tmp_path)])
    # A part leaves what it does not need to those after it.
    assert shares == pytest.approx([600, 500, 1000], rel=0.02)


def test_a_comparison_that_would_not_end_in_time_is_not_started(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def compare(flags):
        clock[0] += 80
        folder = Path(flags[flags.index("--out") + 1])
        folder.mkdir(parents=True)
        row = {"peer": "jaxcnn", "model": "resnet50", "mode": "train", "batch_size": 1, "dtype": "bfloat16"}
        row |= {"image_shape": [224, 224, 3], "error": None, "step_ms": 1.0, "images_per_second": 1.0}
        row |= {"device_kind": "A GPU", "compile_seconds": 1.0, "versions": "x", "samples_ms": [1.0]}
        (folder / "rows.json").write_text(json.dumps({"rows": [row]}))

    monkeypatch.setattr(turns, "compare", compare)
    rows = turns.resnet50(Run(tmp_path, 200.0, tiny=False))
    assert [row["error"] for row in rows] == [None, None, TIME_LIMIT, TIME_LIMIT]


def test_without_the_recipe_there_is_no_speedrun(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "RECIPE", tmp_path / "cifar10_speedrun.py")
    outcome = run_part("speedrun", speedrun.speedrun, a_run(tmp_path))
    assert (outcome.status, outcome.remark) == ("not run", "no speedrun")


def test_the_speedrun_trains_each_precision_until_its_time_is_up(tmp_path, monkeypatch):
    seen = []

    def measure(case, timeout):
        seen.append((case["dtype"], case["seed"], case["data"]))
        clock[0] += 400.0
        return {**case, "seconds": 3.0, "test_accuracy": 0.94, "error": None, **dict.fromkeys(RESULTS, 1)}

    clock = [0.0]
    RESULTS = ("steps", "train_seconds", "test_seconds", "compile_seconds")
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(speedrun, "measure", lambda case, timeout: {**measure(case, timeout), "epoch_seconds": [0.3]})
    monkeypatch.setenv(speedrun.DATA, "cifar10.npz")
    rows = speedrun.speedrun(Run(tmp_path, 1000.0, tiny=False))
    assert seen == [(dtype, seed, "cifar10.npz") for dtype, seed in (("bfloat16", 0), ("float32", 0), ("bfloat16", 1))]
    assert [row["error"] for row in rows] == [None] * 3 + [TIME_LIMIT] * 3
    assert "jaxcnn: mean accuracy 94.00%" in (tmp_path / "rows.md").read_text()
    assert all(476 % settings["steps_per_dispatch"] == 0 for settings in speedrun.FULL)


# Correctness


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("step") / "reference.npz"
    one_step.reference("lenet5", 8, path)
    return path


def test_all_forms_of_the_step_agree_with_the_stored_one(stored):
    rows = list(one_step.compare("lenet5", stored))
    assert [(row["parallel"], row["dtype"]) for row in rows] == [form[:2] for form in one_step.FORMS]
    assert {form[1:] for form in one_step.FORMS[::3]} == {form[1:] for form in one_step.FORMS}
    assert [row["error"] for row in rows] == [None] * len(rows)
    assert [correct.verdict(row) for row in rows] == ["agrees"] * len(rows)
    assert rows[0]["devices"] == 8
    assert all(row["gradient"] > 1e-3 for row in rows if row["dtype"] == "bfloat16")


@pytest.mark.parametrize(
    ("quantity", "change"),
    [("gradient", lambda x: 8 * x), ("parameters", lambda x: 1.1 * x), ("loss", lambda x: x * np.nan)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_step_differs(stored, quantity, change, dtype):
    with np.load(stored) as file:
        reference = dict(file)
    found = {name: change(x) if name.startswith(f"{quantity}/") else x for name, x in reference.items()}
    form = {"dtype": dtype, "precision": "highest" if dtype == "float32" else "default"}
    verdict = correct.verdict({**form, **one_step.differences(found, reference)})
    assert verdict.startswith("differs: ")
    assert quantity in verdict
    assert correct.verdict({**form, **one_step.differences(reference, reference)}) == "agrees"


def test_one_wrong_array_differs_even_if_it_is_small(stored):
    with np.load(stored) as file:
        reference = dict(file)
    smallest = min((name for name in reference if name.startswith("gradient/")), key=lambda n: reference[n].size)
    row = one_step.differences({**reference, smallest: -reference[smallest]}, reference)
    assert row["largest_of"] == smallest
    assert row["largest"] == pytest.approx(2)


def test_a_difference_is_a_failed_part_with_its_table(tmp_path, monkeypatch, capsys):
    def process(arguments, environment, output, run):
        if arguments[0] == "compare":
            row = {"model": arguments[1], "parallel": "pmap", "dtype": "float32", "precision": "highest"}
            row |= {"devices": 1, "device_kind": "A GPU", "error": None, "loss": 1e-7, "parameters": 1e-8}
            output.write_text(json.dumps({**row, "gradient": 0.5, "largest": 0.6, "largest_of": "gradient/x"}) + "\n")
            return "process ended with status -6: aborted"
        assert environment["JAX_PLATFORMS"] == "cpu"
        return None

    monkeypatch.setattr(correct, "_process", process)
    outcome = run_part("correctness", correct.correctness, a_run(tmp_path))
    assert outcome.status == "failed"
    assert outcome.remark.startswith("2 of 10 steps differ from the CPU's: lenet5, pmap, float32 (gradient, largest)")
    text = (tmp_path / "rows.md").read_text()
    assert (
        "| lenet5 | pmap | float32 | highest | 1.0e-07 | 5.0e-01 | 1.0e-08 |  | 6.0e-01 | gradient/x | differs" in text
    )
    assert "| lenet5 | shard_map | float32 | highest |  |  |  |  |  |  | error: process ended with status -6" in text
    assert "float32, highest: gradient 0.001" in text


# Presets


def test_presets_take_turns_with_the_step_without(tmp_path, monkeypatch):
    class FakeTurn:
        def __init__(self, python, module, task, environment):
            self.preset = environment["JAXCNN_XLA_PRESET"]

        def read(self, timeout):
            if self.preset == "nhwc":
                raise PeerError("UsageError: XLA preset 'nhwc' cannot be used")
            return {"compile_seconds": 2.0, "estimate": 0.1, "device_kind": "A GPU"}

        def take(self, steps, timeout):
            return {"": 0.1, "conv-fusion": 0.05}.get(self.preset, 0.2)

        def close(self):
            pass

    monkeypatch.setattr(xla, "Turn", FakeTurn)
    rows = {row["preset"]: row for row in xla.xla(a_run(tmp_path, tiny=False))}
    assert set(rows) == {"none", *PRESETS}
    assert rows["conv-fusion"]["ratio"] == pytest.approx(0.5)
    assert rows["autotune-off"]["ratio"] == pytest.approx(2)
    assert rows["nhwc"]["error"] == "UsageError: XLA preset 'nhwc' cannot be used"
    text = (tmp_path / "rows.md").read_text()
    assert "resnet50, batch 128, 224x224, bfloat16, A GPU" in text
    assert "| none | 100.00 | 1,280 | 1 | | 2.0 |  |" in text
    assert "| conv-fusion | 50.00 | 2,560 | 0.500 | 0.500-0.500 | 2.0 |" in text


# The script


def test_the_gpu_script_is_a_script():
    assert subprocess.run(["bash", "-n", str(ROOT / "benchmarks" / "gpu.sh")]).returncode == 0


def test_the_parent_process_never_starts_jax(tmp_path):
    # It would reserve most of the GPU's memory, which the processes of the parts need.
    code = (
        "import sys; from benchmarks.gpu.__main__ import main; main(sys.argv[1:]); "
        "from jax._src import xla_bridge; sys.exit(xla_bridge.backends_are_initialized())"
    )
    flags = ["--tiny", "--parts", "dispatch,xla", "--seconds", "300", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert [(part["status"], part["remark"]) for part in parts] == [("done", "")] * 2
