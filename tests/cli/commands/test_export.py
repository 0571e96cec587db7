"""`jaxcnn export`: a trained network in a file, and one line for every mistake."""

import sys

import pytest

from jaxcnn.cli import main


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_the_network_and_its_description_are_written(kind, lenet_run, tmp_path):
    out = tmp_path / "network"
    assert main(["export", "--workdir", str(lenet_run.workdir), "--format", kind, "--out", str(out)]) == 0
    assert out.stat().st_size > 100_000
    assert (tmp_path / "network.json").exists()


@pytest.mark.parametrize(("kind", "package"), [("stablehlo", "flatbuffers"), ("onnx", "onnx"), ("onnx", "onnxruntime")])
def test_a_missing_package_is_named_with_its_extra(kind, package, lenet_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    out = tmp_path / "network"
    assert main(["export", "--workdir", str(lenet_run.workdir), "--format", kind, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert package in err
    assert "pip install 'jaxcnn[" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (".", "this path is a folder"),
        ("none/x", "does not exist"),
        ("/dev/null/x", "Not a directory"),
        ("~nobody5/x", "home directory"),
        ("x" * 300, "is not a path"),
        ("a\0b", "NUL characters"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(out, says, lenet_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--workdir", str(lenet_run.workdir), "--out", out]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
