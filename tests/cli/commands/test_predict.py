"""`jaxcnn predict`: class names and probabilities of image files."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.train import load_run


@pytest.fixture(scope="module")
def images():
    return open_dataset("fashion_mnist_mini").read("test")[0][:3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    """Return a directory of three images, and of a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_json_has_the_predictions_of_each_image_in_a_directory(lenet_run, folder, images, capsys):
    assert main(["predict", str(folder), "--workdir", str(lenet_run.workdir), "--json", "--top", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    trained = load_run(lenet_run.workdir)
    assert [row["image"] for row in rows] == [str(folder / f"{index}.png") for index in range(3)]
    for row, wanted in zip(rows, trained.predict(images), strict=True):
        best = np.argsort(-wanted)[:2]
        assert [p["class"] for p in row["predictions"]] == [trained.preprocessing.class_names[k] for k in best]
        np.testing.assert_allclose([p["probability"] for p in row["predictions"]], wanted[best], rtol=1e-4)


def test_a_table_has_percentages(lenet_run, folder, capsys):
    assert main(["predict", str(folder / "0.png"), "--workdir", str(lenet_run.workdir)]) == 0
    assert "%" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_one_line_and_status_2(lenet_run, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / "bad.png"), "--workdir", str(lenet_run.workdir)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "the file is empty" in err
    assert len(err.splitlines()) == 1


def test_a_mistake_is_one_line_and_status_2(lenet_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    image = tmp_path / "x.png"
    Image.new("L", (28, 28)).save(image)
    workdir = ["--workdir", str(lenet_run.workdir)]
    for args, says in (
        ([str(tmp_path / "none.png"), *workdir], "does not exist"),
        ([str(tmp_path / "empty"), *workdir], "contains no images"),
        ([*workdir], "image"),
        ([str(image), "--workdir", "/nowhere"], "/nowhere does not exist"),
        ([str(image), *workdir, "--top", "0"], "top must be at least 1"),
    ):
        assert main(["predict", *args]) == 2, args
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1
