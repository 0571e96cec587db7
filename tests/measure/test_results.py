"""Results on disk, and the command that makes them, from its flags to its pictures."""

import csv
import json

import pytest

from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.measure import plots, results
from jaxcnn.measure.columns import COLUMNS, columns_with_values, format_value


def row(**changed):
    made = {
        "model": "resnet50",
        "params": 25_557_032,
        "gmacs": 4.089,
        "image_size": "224x224x3",
        "batch_size": 32,
        "mode": "train",
        "dtype": "float32",
        "parallel": "pmap",
        "devices": 1,
        "steps_per_dispatch": 1,
        "fake_devices": False,
        "device_kind": "A Device",
        "jax": "0.10.2",
        "step_ms": 100.0,
        "step_ms_p95": 110.0,
        "latency_ms": 101.0,
        "images_per_second": 320.0,
        "predicted_bytes": 2**31,
        "mfu": 0.4567,
        "samples_ms": [100.0, 101.0],
        "error": None,
        "command": "jaxcnn benchmark --model resnet50",
    }
    return {**made, **changed}


ROWS = [
    row(),
    row(batch_size=64, images_per_second=400.0, latency_ms=160.0),
    row(batch_size=64, devices=2, images_per_second=700.0, latency_ms=90.0, scaling="strong", scaling_efficiency=0.875),
    row(batch_size=128, error="out of memory: a | b", images_per_second=None, samples_ms=None, step_ms=None, mfu=None),
]


def test_rows_are_read_back_and_plots_are_png_files(tmp_path):
    files = results.write(tmp_path / "out", ROWS, "Title")
    assert {file.name for file in files} == {
        "rows.json", "rows.csv", "rows.md", "throughput.png", "memory.png", "latency.png", "scaling.png",
    }  # fmt: skip
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
            assert 10_000 < file.stat().st_size < 300_000
    assert results.read(tmp_path / "out") == ROWS == results.read(tmp_path / "out" / "rows.json")
    read = list(csv.DictReader((tmp_path / "out" / "rows.csv").read_text().splitlines()))
    assert [r["batch_size"] for r in read] == ["32", "64", "64", "128"]
    assert read[3]["error"] == "out of memory: a | b"


def test_plots_of_an_earlier_result_are_removed(tmp_path):
    results.write(tmp_path, ROWS, "Title")
    results.write(tmp_path, ROWS[:1], "Title")
    assert not list(tmp_path.glob("*.png"))


def test_the_table_has_the_columns_that_differ_and_names_the_others_once():
    above, _, *table = results.to_markdown(ROWS).splitlines()
    assert "model: resnet50" in above
    assert "params: 25,557,032" in above
    assert table[0].startswith("| batch | devices |")
    assert table[2].count("|") == table[0].count("|")
    assert "out of memory: a \\| b" in table[-1]
    assert "45.7%" in table[2]


def test_columns_are_named_once_and_explained():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.meaning for column in COLUMNS)
    assert "mfu" in columns_with_values(ROWS)
    assert format_value(row(), "predicted_bytes") == "2 GiB"
    assert format_value(row(predicted_bytes=246_824), "predicted_bytes") == "241 KiB"
    assert format_value(row(), "scaling_efficiency") == ""


@pytest.mark.parametrize("text", ["{", "[1]", '{"rows": 1}', "{}"])
def test_a_file_without_rows_is_a_mistake(text, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UsageError, match=r"rows\.json"):
        results.read(tmp_path)


def test_the_command_measures_in_a_process_of_its_own_and_leaves_files(tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--model", "lenet5", "--batch-sizes", "2", "--mode", "infer", "--devices", "1", "--steps", "2"]
    assert main(["benchmark", *flags, "--json", "--out", str(out)]) == 0
    printed, told = capsys.readouterr()
    (measured,) = json.loads(printed)
    assert measured["error"] is None
    assert measured["images_per_second"] > 0
    assert "lenet5 infer float32 pmap x1 batch 2" in told
    assert results.read(out) == [measured]
    assert main(["benchmark", "compare", str(out), str(out)]) == 0


MISTAKES = {
    "benchmark --model lenet": "did you mean 'lenet5'?",
    "benchmark --model lenet5 --batch-sizes many": "integers separated by commas, or auto",
    "benchmark --model lenet5 --batch-sizes 32,": "--batch-sizes",
    "benchmark --model lenet5 --mode trian": "did you mean 'train'?",
    "benchmark --model lenet5 --dtype bf16": "dtype 'bf16'",
    "benchmark --model lenet5 --parallel pmpa": "did you mean 'pmap'?",
    "benchmark --model lenet5 --devices 0": "devices must be at least 1",
    "benchmark --model lenet5 --image-size -4": "image_size must be at least 1",
    "benchmark --model lenet5 --timeout 0": "--timeout must be a positive number",
    "benchmark --model lenet5 --memory-limit nan": "--memory-limit must be a positive number",
    "benchmark --model lenet5 --out /dev/null/x": "--out cannot be used: /dev/null/x (Not a directory)",
    "benchmark --devces 1": "did you mean --devices?",
    "benchmark compare nowhere.json also.json": "results cannot be read: nowhere.json",
    "benchmark compare only_one": "--help",
}


@pytest.mark.parametrize(("line", "says"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(line, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert not out.strip()
    assert len(err.splitlines()) == 1
    assert says in err
    assert not list(tmp_path.iterdir())


def scaling_row(devices, batch):
    return row(devices=devices, batch_size=batch, images_per_second=100.0 * devices)


def test_strong_scaling_is_a_line_over_all_numbers_of_devices():
    rows = [scaling_row(devices, 32) for devices in (1, 2, 4)]
    [(label, line)] = plots._scaling_lines(rows)
    assert label == "resnet50"
    assert [point["devices"] for point in line] == [1, 2, 4]


def test_weak_scaling_is_a_line_for_each_batch_per_device():
    rows = [scaling_row(devices, batch * devices) for devices in (1, 2, 4) for batch in (32, 64)]
    lines = {label: [point["devices"] for point in line] for label, line in plots._scaling_lines(rows)}
    assert lines == {"resnet50, 32 images per device": [1, 2, 4], "resnet50, 64 images per device": [1, 2, 4]}


DAMAGES = {
    "not JSON": "[" * 100_000,
    "invalid times": '{"rows": [{"model": "a", "samples_ms": ["x"]}]}',
    "invalid times ": '{"rows": [{"model": "a", "samples_ms": [1.0], "step_ms": "slow"}]}',
    "invalid times  ": '{"rows": [{"model": "a", "samples_ms": [0.0]}]}',
}


@pytest.mark.parametrize(("says", "text"), DAMAGES.items())
def test_results_that_cannot_be_compared_are_refused(says, text, tmp_path):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UsageError, match=says.strip()):
        results.read(tmp_path)


def test_names_are_no_markup_and_a_byte_order_mark_is_ignored(tmp_path, capsys):
    rows = [row(model="[red]a[/b]", device_kind=["a list"])]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    assert main(["benchmark", "compare", str(tmp_path), str(tmp_path)]) == 0
    assert "[red]a[/b]" in "".join(capsys.readouterr().out.split())


def test_the_status_is_1_if_every_row_failed(tmp_path, monkeypatch, capsys):
    failed = row(error="out of memory: [/b]", samples_ms=None, step_ms=None, images_per_second=None)
    del failed["jax"]  # as in the row of a killed process

    def benchmark(*_, on_row, **__):
        on_row(failed)
        return [failed]

    monkeypatch.setattr("jaxcnn.measure.benchmark", benchmark)
    assert main(["benchmark", "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "out of memory: [/b]" in out
    assert err == "jaxcnn: no measurement succeeded: 1 failed. Error of the last measurement: out of memory: [/b]\n"
    assert results.read(tmp_path / "out") == [failed]
