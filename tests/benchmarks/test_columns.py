"""Columns of the comparison with other libraries: training steps and forward passes, dtypes and batch sizes."""

import json

import pytest

from benchmarks.peers.__main__ import Column, main, parse
from benchmarks.peers.comparison import bfloat16_support
from benchmarks.peers.result_tables import ratio, title, to_markdown
from jaxcnn.errors import UsageError


def test_a_column_is_a_mode_a_dtype_and_a_batch_size():
    assert parse("train-bfloat16") == Column("train", "bfloat16")
    assert parse("inference-float32-8") == Column("inference", "float32", 8)
    assert parse("train-float32").task("vgg16", None, None)["batch_size"] == 4
    assert parse("train-float32").task("vgg16", 64, 2)["image_shape"] == (64, 64, 3)
    assert parse("train-float32-8").task("vgg16", None, 2)["batch_size"] == 8


@pytest.mark.parametrize("name", ["training-float32", "train", "train-float", "train-float32-0", "train-float32-x"])
def test_unknown_columns_are_refused(name):
    with pytest.raises(UsageError, match=f"column {name}: "):
        parse(name)


def test_unknown_libraries_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--peers", "jaxcnn-frosen", "--out", str(tmp_path)])
    assert "did you mean 'jaxcnn-frozen'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16", "amx_bf16"),
        ("flags\t\t: fpu avx512f avx512_bf16", "avx512_bf16, no AMX"),
        ("flags\t\t: fpu avx2", "no bfloat16 instructions: computed in float32"),
        ("Features\t: fp asimd bf16", "bf16"),
    ],
)
def test_instructions_for_bfloat16_are_named(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert bfloat16_support(tmp_path / "cpuinfo") == expected
    assert bfloat16_support(tmp_path / "none") == "bfloat16 instructions unknown"


def test_every_cell_without_a_time_says_why():
    shared = {"model": "lenet5", "image_shape": (28, 28, 1), "device_kind": "x", "error": None}
    ran = {"step_ms": 5.0, "images_per_second": 400.0, "compile_seconds": 1.0, "versions": "v"}
    ran |= {"ratio": 1.5, "ratio_low": 1.0, "ratio_high": 2.0}
    train = {**shared, "mode": "train", "dtype": "bfloat16", "batch_size": 2, "bfloat16": "avx512_bf16, no AMX"}
    forward = {**shared, "mode": "inference", "dtype": "float32", "batch_size": 1}
    steps = [{**train, **ran, "peer": "torch"}, {**train, "peer": "haiku", "error": "not installed: details"}]
    passes = [{**forward, **ran, "peer": "torch"}, {**forward, **ran, "peer": "openvino"}]
    text = to_markdown([*steps, *passes])
    assert "| library | training step, batch 2, bfloat16 (avx512_bf16, no AMX) | inference, batch 1, float32 |" in text
    assert "| torch | 5.0 (1.50) | 5.0 (1.50) |" in text
    assert "| haiku | not installed | training only |" in text
    assert "| openvino | inference only | 5.0 (1.50) |" in text
    assert ratio(passes, "torch-compiled") == "not run"
    assert title(passes[0]) == "inference, batch 1, float32"


@pytest.mark.slow
def test_columns_are_measured_by_one_command(tmp_path, capsys):
    flags = ["--models", "lenet5", "--rounds", "1", "--seconds", "0.01", "--here", "--batch-size", "2"]
    columns = ["train-float32", "inference-float32-1", "inference-bfloat16-1"]
    peers = ["jaxcnn", "jaxcnn-frozen", "onnxruntime"]
    flags += ["--columns", ",".join(columns), "--peers", ",".join(peers), "--out", str(tmp_path)]
    assert main(flags) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["peer"] for row in rows] == ["jaxcnn", *peers, *peers]
    assert [row["error"] for row in rows] == [None] * 6 + ["no bfloat16"]
    assert all(row["ratio"] > 0 for row in rows[:6])
    assert "bfloat16" in rows[4]
    assert "| onnxruntime | inference only |" in capsys.readouterr().out
