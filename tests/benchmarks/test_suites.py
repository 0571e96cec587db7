"""The scripts in benchmarks/: what they ask for can be measured, and what they leave can be read."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks import batch_sizes, compile, devices, loop_overhead, report, time_to_accuracy
from benchmarks.results import write
from jaxcnn.measure import results

ROOT = Path(__file__).parents[2]
OVER_MEASURE = {"batch_sizes": batch_sizes, "devices": devices, "compile": compile}


@pytest.mark.parametrize("budget", everything.BUDGETS)
def test_every_suite_of_a_budget_exists_and_takes_its_flags(budget, monkeypatch, tmp_path):
    for folder, suite, flags in everything.BUDGETS[budget]:
        if suite not in OVER_MEASURE:
            path = ROOT / "benchmarks" / suite.replace(".", "/")
            assert path.is_dir() or path.with_name(f"{path.name}.py").exists()
            continue
        asked = []
        monkeypatch.setattr(OVER_MEASURE[suite], "measure", lambda cases, *_, asked=asked: asked.extend(cases) or [])
        assert OVER_MEASURE[suite].main([*flags.split(), "--out", str(tmp_path / folder)]) == 0
        assert asked  # each case was validated when it was made


def test_a_suite_measures_and_leaves_files(tmp_path, monkeypatch, capsys):
    from benchmarks import suite

    def measure(case, report, timeout):
        row = {"model": case.model, "batch_size": case.batch_size, "images_per_second": 10.0 * case.batch_size}
        return {**row, "step_ms": 100.0, "latency_ms": 100.0, "mode": case.mode, "dtype": case.dtype, "error": None} | {
            "parallel": case.parallel, "devices": 1, "fake_devices": False, "device_kind": "x", "jax": "1",
            "predicted_bytes": 1000, "image_size": "28x28x1", "samples_ms": [100.0],
        }  # fmt: skip

    monkeypatch.setattr(suite, "measure_isolated", measure)
    flags = ["--models", "lenet5", "--batch-sizes", "1,2", "--modes", "infer", "--out", str(tmp_path)]
    assert batch_sizes.main(flags) == 0
    assert [row["batch_size"] for row in results.read(tmp_path)] == [1, 2]
    assert (tmp_path / "throughput.png").exists()
    assert "2 of 2: lenet5 infer float32 pmap batch 2 on 1: 100 ms, 20 images/s" in capsys.readouterr().err


def test_suites_that_hang_are_stopped():
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    assert everything._run([sys.executable, "-c", code], 1.0) == "stopped: time limit reached"
    assert everything._run([sys.executable, "-c", "raise SystemExit(3)"], 30.0) == "exit status 3"
    assert everything._run([sys.executable, "-c", ""], None) is None
    assert everything._run(["never"], 0.0) == "not run: time limit reached"


def test_time_to_accuracy_stops_at_the_first_test_that_reached_it(monkeypatch, tmp_path):
    tests = [{"split": "test", "accuracy": a, "epoch": e} for e, a in enumerate([0.5, 0.8, 0.9], 1)]
    shown = []

    class Result:
        values = {"compile_seconds": 1.0}  # noqa: RUF012
        test_accuracy = 0.9

    def fit(config):
        import time

        for row in tests:
            shown.append(row)
            time.sleep(0.3)
        return Result()

    monkeypatch.setattr(time_to_accuracy, "fit", fit)
    monkeypatch.setattr(time_to_accuracy, "read_rows", lambda workdir: list(shown))
    row = time_to_accuracy.run(time_to_accuracy.Config(), target=0.75)
    assert (row["epochs"], row["accuracy"], row["error"]) == (2, 0.8, None)
    assert row["seconds"] >= 0.3
    row = time_to_accuracy.run(time_to_accuracy.Config(), target=0.95)
    assert row["error"] == "95.0% was not reached in 30 epochs"
    assert "seconds" not in row


PEER_ROWS = [
    {"peer": "jaxcnn", "images_per_second": 1234.5, "ratio": 1.0, "versions": "jax 1, flax 2"},
    {"peer": "torch", "images_per_second": 617.0, "ratio": 2.0, "versions": "torch 3"},
    {"peer": "keras", "error": "not installed: keras cannot be imported"},
]
TASK = {"model": "lenet5", "batch_size": 256, "dtype": "float32", "image_shape": [28, 28, 1], "device_kind": "A CPU"}


def test_the_report_and_the_readme_are_made_from_the_files(tmp_path, capsys):
    rows = [{**TASK, "error": None, **row} for row in PEER_ROWS]
    write(tmp_path / "results" / "peers", "Peers", rows, "| a |\n")
    write(tmp_path / "results" / "zeta", "Another", [], "nothing\n")
    (tmp_path / "results" / "zeta" / "throughput.png").write_bytes(b"")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nbehind\n")
    flags = ["--results", str(tmp_path / "results"), "--readme", str(readme)]
    assert report.main([*flags, "--check"]) == 1
    assert "old" in readme.read_text()
    assert report.main(flags) == 0
    assert report.main([*flags, "--check"]) == 0
    text = readme.read_text()
    assert "| lenet5, 256 x 28x28, float32 | 1,234 | 2.00 | not installed |" in text
    assert text.startswith("# Title")
    assert text.endswith("behind\n")
    page = (tmp_path / "results" / "README.md").read_text()
    assert page.index("## Peers") < page.index("## Another")
    assert "![throughput](zeta/throughput.png)" in page
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="benchmarks:begin"):
        report.main(flags)


def test_loop_overhead_leaves_its_row(tmp_path, monkeypatch, capsys):
    # Bare steps before, between and after two runs: each run is compared with the mean of its neighbours.
    speeds = iter([100.0, 110.0, 100.0])
    monkeypatch.setattr(loop_overhead, "bare_step", lambda config, data: lambda: next(speeds))
    run = {"steps": 5, "batch_size": 42, "seconds": 6.0, "first_batch_seconds": 0.5, "compile_seconds": 1.5}
    values = {**run, "images_per_second": 84.0}
    monkeypatch.setattr(loop_overhead, "fit", lambda config, data: type("Result", (), {"values": values}))
    assert loop_overhead.main(["--repeats", "2", "--data", "arrays", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["median_ratio"] == 0.8
    assert row["seconds"] == {"steps": 2.0, "first batch": 0.5, "compiling": 1.5, "rest": 2.0}
    assert "| 0.800 (0.800-0.800) | 2.00 | 0.50 | 1.50 | 2.00 |" in (tmp_path / "rows.md").read_text()
    assert json.loads(capsys.readouterr().out)[0]["ratios"] == [0.8, 0.8]
