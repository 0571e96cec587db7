"""The suite of precision: its verdicts follow their rules, and both comparisons run, without torch too."""

import importlib.util
import json
import math

import numpy as np
import pytest

from benchmarks.peers.turns import PeerError
from benchmarks.precision import accuracy, gradients
from benchmarks.precision.networks import NETWORKS, batches, gradient, initial, layers
from jaxcnn.train.many import Statistic

FLOAT32 = (0.80, 0.82, 0.81)


@pytest.mark.parametrize(
    ("bfloat16", "expected"),
    [
        ((0.80, 0.83, 0.80), accuracy.WITHIN),  # the interval contains 0
        ((0.795, 0.815, 0.805), accuracy.WITHIN),  # it does not, but the difference is below the deviation of 0.01
        ((0.785, 0.805, 0.795), accuracy.OUTSIDE),
        ((0.815, 0.835, 0.825), accuracy.OUTSIDE),  # a better accuracy is a difference too
    ],
)
def test_the_verdict_needs_a_difference_beyond_interval_and_deviation(bfloat16, expected):
    baseline = Statistic(FLOAT32)
    difference = accuracy.differences(Statistic(bfloat16), baseline)
    assert accuracy.verdict(difference, baseline) == expected


def test_one_seed_gives_no_verdict():
    baseline = Statistic((0.8,))
    assert accuracy.verdict(accuracy.differences(Statistic((0.5,)), baseline), baseline) == accuracy.UNKNOWN


def test_new_rows_replace_those_of_the_same_network_only():
    def row(model, dtype, mean, length="2 epochs"):
        return {"model": model, "dataset": "d", "batch_size": 64, "length": length, "dtype": dtype, "mean": mean}

    earlier = [
        row("a", "float32", 1),
        row("a", "bfloat16", 2),
        row("b", "float32", 3),
        row("a", "float32", 4, "9 epochs"),
    ]
    found = accuracy.merged(earlier, [row("a", "float32", 5)])
    assert [x["mean"] for x in found] == [3, 4, 5]


def test_accuracies_are_measured_and_finished_networks_are_kept(tmp_path, capsys, compile_quickly):
    flags = ["--models", "lenet5", "--steps", "2", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert accuracy.main([*flags, "--seeds", "1"]) == 0
    (first,) = (tmp_path / "runs").glob("*/*seed=0*float32*/result.json")
    before = first.read_bytes()
    assert accuracy.main([*flags, "--seeds", "2"]) == 0
    assert first.read_bytes() == before
    assert not list(tmp_path.glob("**/checkpoints"))
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())["rows"]
    assert [(row["dtype"], row["seeds"], row["steps"]) for row in rows] == [
        ("float32", [0, 1], 2),
        ("bfloat16", [0, 1], 2),
    ]
    assert rows[0]["test_accuracy"][0] == json.loads(before)["test_accuracy"]
    assert "verdict" not in rows[0]
    expected = np.mean(rows[1]["test_accuracy"]) - np.mean(rows[0]["test_accuracy"])
    assert math.isclose(rows[1]["difference"], expected, abs_tol=1e-12)
    assert rows[1]["low"] <= rows[1]["difference"] <= rows[1]["high"]
    assert rows[1]["verdict"] in (accuracy.WITHIN, accuracy.OUTSIDE)
    assert f"| {rows[1]['verdict']} |" in capsys.readouterr().out


def test_errors_are_relative_and_leave_out_gradients_that_are_zero():
    reference = [np.array([3.0, 0.0]), np.array([[4.0]]), np.array([1e-12])]
    found = [np.array([3.3, 0.0]), np.array([[4.0]]), np.array([1e-3])]
    of = gradients.errors(found, reference)
    assert math.isclose(of["whole"], math.hypot(0.3, 1e-3) / 5, rel_tol=1e-9)
    assert math.isclose(of["largest"], 0.1, rel_tol=1e-9)
    assert math.isclose(of["median"], 0.05, rel_tol=1e-9)


def test_another_network_is_not_compared():
    reference = [np.array([1.0, 2.0])]
    gradients.check_same(2.0, reference, 2.0, reference)
    with pytest.raises(PeerError, match="losses differ"):
        gradients.check_same(2.0 + 1e-8, reference, 2.0, reference)
    with pytest.raises(PeerError, match="gradients differ"):
        gradients.check_same(2.0, [np.array([1.0, 2.1])], 2.0, reference)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ((0.11, 0.10, 0.11), "no worse"),  # a ratio below 1.1
        ((0.30, 0.05, 0.10), "no worse"),  # batches differ more than libraries
        ((0.21, 0.20, 0.19), "worse"),
    ],
)
def test_gradients_are_worse_if_the_error_is_larger_in_every_batch(ours, expected):
    def row(library, whole):
        batch = [{"whole": x, "median": x, "largest": x} for x in whole]
        return {"library": library, "dtype": "bfloat16", "batches": batch, "error": None}

    found = gradients.with_verdicts([row("jaxcnn", ours), row("torch", (0.11, 0.1, 0.09))])
    assert found[0]["verdict"] == expected
    assert math.isclose(found[0]["ratio"], sum(ours) / 0.3)
    assert "verdict" not in found[1]


def test_parameters_are_in_the_order_of_the_layers():
    paths = ["/".join(path) for path in layers(NETWORKS["resnet18"]) if path[0] == "stage2_block1"]
    block = ("conv1/kernel", "norm1/scale", "norm1/bias", "conv2/kernel", "norm2/scale", "norm2/bias")
    shortcut = ("shortcut_conv/kernel", "shortcut_norm/scale", "shortcut_norm/bias")
    assert paths == [f"stage2_block1/{layer}" for layer in (*block, *shortcut)]


def test_the_reference_is_computed_in_float64():
    network = NETWORKS["lenet5"]
    params, ((images, labels),) = initial(network), batches(network, 1, 2)
    loss, found = gradient(network, params, "float64", "xla")(images, labels)
    assert {x.dtype for x in found} == {np.dtype("float64")}
    # A step along the gradient changes the loss by step * norm^2, to second order.
    step = 1e-6
    index = list(params).index(("head", "bias"))
    moved = {**params, ("head", "bias"): params["head", "bias"].astype(np.float64) + step * found[index]}
    change = gradient(network, moved, "float64", "xla")(images, labels)[0] - loss
    assert math.isclose(change, step * np.square(found[index]).sum(), rel_tol=1e-4)


def run_gradients(folder, *flags):
    arguments = ["--models", "lenet5", "--batches", "1", "--batch-size", "2", "--no-install", "--out", str(folder)]
    assert gradients.main([*arguments, *flags]) == 0
    return json.loads((folder / "rows.json").read_text())["rows"]


def test_gradients_are_compared_with_float64_where_torch_is_missing(tmp_path, capsys, compile_quickly):
    rows = run_gradients(tmp_path, "--dtypes", "float32,bfloat16", "--environments", str(tmp_path / "none"))
    found = {(row["dtype"], row["library"]): row for row in rows}
    for library in ("jaxcnn", "jaxcnn-xla"):
        assert 0 < found["float32", library]["whole"] < 1e-4
        assert 1e-3 < found["bfloat16", library]["whole"] < 0.5
    assert found["bfloat16", "torch"]["error"].startswith("not installed")
    assert "not installed" in capsys.readouterr().out


def test_a_baseline_that_computes_something_else_is_a_row_that_says_so(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys, numpy as np\n"
        "folder = sys.argv[2] + '/'\n"
        "parameters = np.load(folder + 'parameters.npz')\n"
        "assert parameters['4'].shape == (120, 400)\n"
        "assert np.load(folder + 'batch0.npz')['images'].shape == (2, 28, 28, 1)\n"
        "arrays = {f'{name} float64': parameters[name] for name in parameters.files}\n"
        "np.savez(folder + 'torch0.npz', **arrays, **{'loss float64': np.float64(1)})\n"
        'print(\'{"versions": "none"}\')\n'
    )
    monkeypatch.setattr(gradients, "WORKER", worker)
    monkeypatch.setattr(gradients, "python_for", lambda *_, **__: gradients.sys.executable)
    *_, row = run_gradients(tmp_path)
    assert row["error"].startswith("float64 losses differ")
    assert "whole" not in row


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("model", NETWORKS)
def test_torch_computes_the_same_network(model, tmp_path):
    *ours, row = run_gradients(tmp_path, "--models", model, "--here")
    assert row["error"] is None
    assert 1e-3 < row["whole"] < 1
    assert all("verdict" in row for row in ours)


def test_unknown_models_are_refused(capsys):
    for main in (accuracy.main, gradients.main):
        with pytest.raises(SystemExit):
            main(["--models", "lenet6"])
        assert "did you mean 'lenet5'?" in capsys.readouterr().err
