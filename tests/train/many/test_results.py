"""Statistics over seeds, names, and curves of many networks."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig
from jaxcnn.train.many import NetworkResult, Results, _curves
from jaxcnn.train.many.names import LONGEST_NAME, directory_names

# Quantiles of Student's t distribution at 97.5 %, from printed tables.
T = {1: 12.706204736, 4: 2.776445105, 9: 2.262157163}


def results_of(values_by_rate, folder=Path("sweep"), **more):
    """Return results with these test accuracies by learning rate; None has diverged."""
    runs = []
    for rate, values in values_by_rate.items():
        for seed, value in enumerate(values):
            config = Config(seed=seed, optimizer=OptimizerConfig(learning_rate=rate))
            metrics = {"accuracy": value, "loss": 1 - (value or 0), "top5": 0.9, "confusion": [[1, 2], [3, 4]]}
            found = {} if value is None else {"metrics": metrics}
            reason = "the loss is nan at step 3" if value is None else None
            runs.append(NetworkResult(f"n{len(runs)}", config, folder / f"n{len(runs)}", found, reason))
    return Results(folder, tuple(runs), "turns", 1.0)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_statistics_are_those_of_numpy_and_student(count):
    values = np.random.default_rng(count).normal(0.8, 0.02, count).tolist()
    (setting,) = results_of({0.1: values}).settings
    found = setting.statistic("accuracy")
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    half = T[count - 1] * np.std(values, ddof=1) / math.sqrt(count)
    assert found.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-8)


def test_networks_that_diverged_do_not_count():
    first, second = results_of({0.1: [0.8, None, 0.9], 9.0: [None, None, None]}).settings
    assert first.statistic("accuracy").mean == pytest.approx(0.85)
    assert first.statistic("accuracy").std == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert first.diverged == 1
    assert math.isnan(second.statistic("accuracy").mean)


def test_one_network_has_no_deviation():
    (setting,) = results_of({0.1: [0.8]}).settings
    assert setting.statistic("accuracy").mean == 0.8
    assert math.isnan(setting.statistic("accuracy").std)
    assert all(map(math.isnan, setting.statistic("accuracy").interval))


def test_the_table_has_each_number_of_each_setting():
    results = results_of({0.1: [0.8, 0.9], 9.0: [None, None]})
    assert results.metrics == ("accuracy", "loss", "top5")
    lines = results.table().splitlines()
    assert lines[0].split() == ["setting", "metric", "mean", "std", "95", "%", "interval", "networks"]
    assert lines[2].split() == [
        *("optimizer.learning_rate=0.1", "test", "accuracy", "85.00", "%", "7.07", "%"),
        *("21.47", "%", "to", "148.53", "%", "2"),
    ]
    assert lines[5].split() == ["optimizer.learning_rate=9.0", "test", "accuracy", "NaN", "2", "(2", "diverged)"]
    assert len(lines) == 2 + 2 * 3


def test_the_json_is_strict_and_complete():
    written = json.dumps(results_of({0.1: [0.8, None]}).to_json(), allow_nan=False)
    (setting,) = json.loads(written)["settings"]
    assert setting["seeds"] == [0, 1]
    assert setting["metrics"]["accuracy"]["values"] == [0.8, None]
    assert setting["metrics"]["accuracy"]["std"] is None
    assert json.loads(written)["runs"][1]["diverged"] == "the loss is nan at step 3"


def test_directories_are_named_by_what_differs():
    made = [
        Config(seed=s, model=m, optimizer=OptimizerConfig("adam", b2=b))
        for s in (0, 1)
        for m in ("a", "b")
        for b in (0.9, 0.95)
    ]
    names = directory_names(made)
    assert names[0] == "seed=0,model=a,optimizer.b2=0.9"
    assert len(set(names)) == len(made)
    assert directory_names([Config(seed=7)]) == ["seed=7"]


def test_no_two_directories_are_alike():
    made = [Config(dataset="a/b"), Config(dataset="a_b"), Config(dataset="x" * 300), Config(dataset="x" * 301)]
    names = directory_names(made)
    assert len(set(names)) == len(made)
    assert all("/" not in name and len(name.encode()) <= LONGEST_NAME for name in names)
    with pytest.raises(UsageError, match="configurations 0 and 1 are the same run"):
        directory_names([Config(log_every=1), Config(log_every=2)])


def test_a_curve_is_the_mean_over_the_networks_that_still_train():
    rows = [
        [{"epoch": e, "loss": float(x)} for e, x in enumerate(values, 1)] for values in ([4, 2, 1], [2, 4], [math.nan])
    ]
    found = _curves.curve(rows, "loss")
    np.testing.assert_array_equal(found.epochs, [1, 2, 3])
    np.testing.assert_allclose(found.mean, [3, 3, 1])
    np.testing.assert_allclose(found.deviation, [math.sqrt(2), math.sqrt(2), 0])
    assert _curves.curve([[], []], "loss") is None


def test_labels_are_moved_apart_within_the_picture():
    moved = _curves._apart([0.0, 0.1, 0.15, 5.0, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert all(b - a > 0.98 for a, b in itertools.pairwise(moved))
    assert moved[0] >= 0
    assert moved[-1] <= 10
    assert moved[3] == 5.0


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.2, 0.3], [0.01 * i for i in range(1, 13)]])
def test_the_picture_is_drawn(tmp_path, rates):
    results = results_of({rate: [0.8, 0.9] for rate in rates}, tmp_path)
    for run in results.runs:
        run.workdir.mkdir()
        rows = [
            {"split": split, "step": step, "epoch": step, "loss": 1 / step, "accuracy": 0.1 * step}
            for step in (1, 2)
            for split in ("train", "test")
        ]
        (run.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _curves.draw(results, "accuracy", tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
