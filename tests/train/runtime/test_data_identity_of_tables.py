"""Runs on a table of images: opened again by its name, and refused when the table, a file or a split has changed."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.train import Config
from jaxcnn.train.runtime import data_identity

pytestmark = pytest.mark.usefixtures("compile_quickly")

COLORS = {"blue": (0, 0, 230), "red": (230, 0, 0)}


@pytest.fixture
def folder(tmp_path):
    """A folder with 20 images and the table that lists them, relative to it."""
    lines = ["path,label,split"]
    for label, color in COLORS.items():
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 25, (16, 16, 3)) + color
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{label}{number}.bmp")
            lines.append(f"{label}{number}.bmp,{label},{'test' if number > 7 else 'train'}")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    return tmp_path


def train(steps):
    flags = ["--dataset", "csv:images.csv", "--data-dir", "data", "--workdir", "run", "--batch-size", "8"]
    return main(["train", *flags, "--steps", str(steps), "--augment", "--no-progress", "--json"])


def test_a_run_is_evaluated_and_resumed_from_any_directory(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert train(2) == 0
    assert json.loads((folder / "run" / "config.json").read_text())["dataset"] == f"csv:{folder / 'images.csv'}"
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["eval", "--workdir", str(folder / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_examples"] == 4
    assert main(["predict", "--workdir", str(folder / "run"), str(folder / "red0.bmp")]) == 0
    monkeypatch.chdir(folder)
    assert train(3) == 0
    (folder / "images.csv").rename(folder / "moved.csv")
    capsys.readouterr()
    assert main(["eval", "--workdir", str(folder / "run")]) == 2
    assert f"the data of the run is missing: {folder / 'images.csv'} does not exist" in capsys.readouterr().err
    assert main(["eval", "--workdir", str(folder / "run"), "--dataset", "csv:moved.csv", "--json"]) == 0


CHANGES = (
    ("", "the training images of class 'red' has 7 images instead of 8"),
    ("red0.bmp,blue,train\n", "the training images of class 'blue' has 9 images instead of 8"),
    ("red0.bmp,red,test\n", "the test images of class 'red' has 3 images instead of 2"),
    ("red0.bmp,red,val\n", "the validation images of class 'red' is new (1 image)"),
    ("red1.bmp,red,train\n", "files of the training images of class 'red' have other names or sizes"),
)
"""What takes the place of a row, and what is said about it."""


def test_a_changed_table_or_file_is_refused_by_what_has_changed(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    table = folder / "images.csv"
    before = table.read_text()
    assert train(1) == 0
    for row, says in CHANGES:
        table.write_text(before.replace("red0.bmp,red,train\n", row))
        capsys.readouterr()
        assert train(2) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert says in error
        assert "--accept-changed-data" in error
    header, *rows = before.splitlines()
    table.write_text("\n".join([header, *rows[::-1]]))
    assert train(1) == 0
    Image.new("RGB", (16, 17)).save(folder / "red0.bmp")
    capsys.readouterr()
    assert train(2) == 2
    assert CHANGES[-1][1] in " ".join(capsys.readouterr().err.split())


def test_a_run_of_an_earlier_version_goes_on_beside_a_folder_of_validation_images(folder):
    """Earlier versions left such a folder out."""
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        for label in COLORS:
            (folder / "pics" / split / label).mkdir(parents=True)
            (folder / f"{label}{number}.bmp").rename(folder / "pics" / split / label / "0.bmp")
    dataset = open_dataset(f"imagefolder:{folder / 'pics'}", folder / "data")
    found = data_identity.identity(dataset, Config(data_fingerprint="contents"))
    assert found["splits"] == ["train", "test", "validation"]
    parts = {name: {**part, "contents": None} for name, part in found["parts"].items() if "validation" not in name}
    earlier = {"classes": found["classes"], "parts": parts}
    assert data_identity.differences(earlier, found) == []
    (folder / data_identity.DATA).write_text(json.dumps(earlier))
    data_identity.write(folder, found)
    written = json.loads((folder / data_identity.DATA).read_text())
    del written["sha256"]
    assert written == found
    # A folder that is added to a run of this version is a change.
    assert data_identity.differences({**earlier, "splits": ["train", "test"]}, found) == [
        f"the validation images of class {label!r} is new (1 image)" for label in COLORS
    ]
