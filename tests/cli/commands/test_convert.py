"""`jaxcnn convert`: weights from a file or the hub to ours and back, with a report."""

import json
import sys
import types

import numpy as np
import pytest

from jaxcnn import weights
from jaxcnn.cli import main
from jaxcnn.models import create_model
from jaxcnn.train import load_run
from jaxcnn.weights import safetensors
from jaxcnn.weights.conversion import template


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A ResNet-18 in torchvision's names, of 3 classes."""
    path = tmp_path_factory.mktemp("published") / "resnet18.safetensors"
    shapes = template(create_model("resnet18", 3), (224, 224, 3))
    tree = {}
    for index, (name, shape) in enumerate(shapes.items()):
        *path_in, last = name.split("/")
        node = tree
        for part in path_in:
            node = node.setdefault(part, {})
        node[last] = np.full(shape.shape, index, np.float32)
    weights.save(path, "resnet18", tree, to="torchvision")
    return path


def test_a_published_file_is_converted_and_back_unchanged(published, tmp_path, capsys):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    assert main(["convert", str(published), "--model", "resnet18", "--out", str(ours), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    row = {row["source"]: row for row in report["arrays"]}["conv1.weight"]
    assert row["target"] == "params/stem/conv/kernel"
    assert row["source_shape"] == [64, 3, 7, 7]
    assert row["shape"] == [7, 7, 3, 64]
    assert row["change"] == "transposed"
    assert report["preprocessing"]["resize"] == 256
    assert main(["convert", str(ours), "--model", "resnet18", "--to", "torchvision", "--out", str(theirs)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "102 arrays, written to" in printed
    flags = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --image-size 224 --resize 256 (bilinear)"
    assert f"preprocessing: {flags}" in printed
    before, after = safetensors.read(published), safetensors.read(theirs)
    assert set(before) == set(after)
    for name, stored in before.items():
        np.testing.assert_array_equal(after[name].read(), stored.read())


def test_the_weights_of_a_run_are_written_and_loaded(lenet_run, tmp_path, capsys):
    run, out = lenet_run.workdir, tmp_path / "lenet5.safetensors"
    assert main(["convert", "--workdir", str(run), "--out", str(out)]) == 0
    trained, loaded = load_run(run), weights.load("lenet5", out)
    np.testing.assert_array_equal(loaded["params"]["head"]["kernel"], trained.variables["params"]["head"]["kernel"])
    assert "preprocessing: --mean 0.286" in capsys.readouterr().out
    known = weights.convert("lenet5", out).preprocessing
    assert (known.mean, known.image_size, known.crop_fraction) == (trained.preprocessing.mean, (28, 28), 1)
    for args, says in (
        (["--to", "torchvision", "--out", str(tmp_path / "x.safetensors")], "no counterpart in torchvision"),
        (["--model", "resnet18"], "trained lenet5, not resnet18"),
        (["--drop-head"], "apply only to weight files"),
    ):
        assert main(["convert", "--workdir", str(run), *args]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_a_name_on_the_hub_is_downloaded(published, monkeypatch, capsys):
    asked = []
    stub = types.ModuleType("huggingface_hub")
    stub.hf_hub_download = lambda *names: (asked.append(names), str(published))[1]
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    assert weights.load("resnet18", "hf:timm/resnet18.tv_in1k")["params"]["head"]["kernel"].shape == (512, 3)
    assert asked == [("timm/resnet18.tv_in1k", name) for name in ("model.safetensors", "config.json")]

    def offline(*names):
        raise OSError("no\nnetwork")

    stub.hf_hub_download = offline
    assert main(["convert", "hf:timm/resnet18.tv_in1k", "--model", "resnet18"]) == 2
    err = capsys.readouterr().err
    assert "cannot download hf:timm/resnet18.tv_in1k: no network" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "neither FILE nor --workdir is given. Give either FILE or --workdir"),
        (["x.pth"], "is missing. Give --model"),
        (["x.pth", "--model", "resnet5"], "did you mean"),
        (["x.pth", "--model", "resnet50"], "does not exist"),
        (["hf:nonsense", "--model", "resnet50"], "Use the form hf:OWNER/NAME"),
        (["hf:../../x", "--model", "resnet50"], "Use the form hf:OWNER/NAME"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, capsys):
    assert main(["convert", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("out", ["/dev/null/x.safetensors", "folder"])
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(out, published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert main(["convert", str(published), "--model", "resnet18", "--out", out]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert ("Not a directory" if "null" in out else "this path is a directory") in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_missing_huggingface_hub_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["convert", "hf:timm/resnet50.tv_in1k", "--model", "resnet50"]) == 2
    assert "pip install 'jaxcnn[hub]'" in capsys.readouterr().err
