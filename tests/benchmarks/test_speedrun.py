"""The speedrun of two libraries: its data, its rows, and what a stopped comparison goes on with."""

import importlib.util
import json

import numpy as np
import pytest

from benchmarks import speedrun
from jaxcnn.errors import UsageError

SMALL = {
    **speedrun.CASE,
    "widths": (4, 4, 4),
    "batch_size": 16,
    "total_steps": 7,
    "data": "synthetic:64",
}


def test_data_is_read_from_binary_batches_and_from_a_numpy_file(tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8), np.arange(12)
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1)
    for number in range(5):
        rows[2 * number : 2 * number + 2].tofile(tmp_path / f"data_batch_{number + 1}.bin")
    rows[10:].tofile(tmp_path / "test_batch.bin")
    arrays = speedrun.load(str(tmp_path))
    np.testing.assert_array_equal(arrays["x_train"], images[:10])
    np.testing.assert_array_equal(arrays["y_test"], labels[10:])
    np.savez(tmp_path / "all.npz", **arrays)
    assert {name: x.shape for name, x in speedrun.load(str(tmp_path / "all.npz")).items()} == {
        name: x.shape for name, x in arrays.items()
    }
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UsageError, match="does not have the six binary batches"):
        speedrun.load(str(tmp_path))
    with pytest.raises(UsageError, match="there is no data in nowhere"):
        speedrun.load("nowhere")


def result(library, seed):
    made = {"steps": 476, "test_accuracy": 0.94 + seed / 100, "epoch_seconds": [2.0, 3.0], "train_seconds": 30.0}
    return {**made, "test_seconds": 1.5, "compile_seconds": 9.0, "seconds": 31.5, "error": None}


def test_libraries_take_turns_and_finished_runs_are_kept(tmp_path, monkeypatch, capsys):
    calls = []

    def measure(case, python):
        calls.append((case["library"], case["seed"], python, case["folder"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {**json.loads(json.dumps(case)), **result(case["library"], case["seed"])}

    monkeypatch.setattr(speedrun, "measure", measure)
    flags = ["--seeds", "0,1", "--python", "torch=/other/python", "--out", str(tmp_path), "--kept", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        speedrun.main(flags)
    assert speedrun.main(flags) == 0
    assert [(library, seed) for library, seed, *_ in calls] == [
        ("jaxcnn", 0),
        ("torch", 0),
        ("jaxcnn", 1),
        ("jaxcnn", 1),
        ("torch", 1),
    ]
    assert calls[2][3] == calls[3][3]  # the stopped run goes on in its folder
    assert {python for library, _, python, _ in calls if library == "torch"} == {"/other/python"}
    table = capsys.readouterr().out
    assert "| torch | 1 | float32 | 476 | 31.5 | 1.5 | 2.5 | 9.0 | 95.00% |" in table
    assert "jaxcnn: mean accuracy 94.50%, standard deviation 0.71%, 2 runs; median 31.5 s." in table


def test_unknown_libraries_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        speedrun.main(["--library", "jaxcnn,troch"])
    assert "unknown library 'troch'; did you mean 'torch'?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "library",
    [
        "jaxcnn",
        pytest.param("torch", marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")),
    ],
)
def test_a_small_run_has_times_and_an_accuracy(library, tmp_path):
    row = speedrun.measure({**SMALL, "library": library, "folder": str(tmp_path)})
    assert row["error"] is None
    assert row["steps"] == 7
    assert 0 <= row["test_accuracy"] <= 1
    assert row["seconds"] == pytest.approx(row["train_seconds"] + row["test_seconds"])
    # A run that is complete is only tested again.
    again = speedrun.measure({**SMALL, "library": library, "folder": str(tmp_path)})
    assert again["test_accuracy"] == row["test_accuracy"]


def test_a_run_that_fails_is_a_row_with_its_last_line(tmp_path):
    row = speedrun.measure({**SMALL, "data": "nowhere", "folder": str(tmp_path)})
    assert "there is no data in nowhere" in row["error"]
