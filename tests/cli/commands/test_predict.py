"""`jaxcnn predict`: class names and probabilities of image files."""

import csv
import io
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


def test_every_format_has_the_same_predictions(lenet_run, folder, capsys):
    args = ["predict", str(folder), "--workdir", str(lenet_run.workdir), "--top", "2"]
    printed = {}
    for kind in ("json", "jsonl", "csv", "table"):
        assert main([*args, "--format", kind]) == 0
        printed[kind], err = capsys.readouterr()
        assert ("checkpoint of step 60" in err) == (kind != "table")
    assert main([*args, "--json"]) == 0
    assert capsys.readouterr().out == printed["json"]
    rows = json.loads(printed["json"])
    assert printed["json"] == json.dumps(rows, indent=2) + "\n"
    assert [json.loads(line) for line in printed["jsonl"].splitlines()] == rows
    table = list(csv.DictReader(io.StringIO(printed["csv"])))
    assert [row["image"] for row in table] == [row["image"] for row in rows]
    assert [row["class_2"] for row in table] == [row["predictions"][1]["class"] for row in rows]
    assert [float(row["probability_1"]) for row in table] == [row["predictions"][0]["probability"] for row in rows]
    lines = printed["table"].splitlines()
    for line, row in zip(lines, rows, strict=False):
        best = row["predictions"][0]
        assert line.split("  ")[0] == row["image"]
        assert f"  {best['class']} {best['probability']:.2%}  " in line
    assert lines[3:] == [
        "lenet5, checkpoint of step 60",
        "3 images classified",
        "1 other file skipped (hidden, or not an image)",
    ]


def test_a_tree_of_class_folders_has_an_accuracy_and_bad_files_are_listed_at_the_end(
    lenet_run, images, tmp_path, capsys
):
    trained = load_run(lenet_run.workdir)
    names = trained.preprocessing.class_names
    best = trained.predict(images).argmax(1)
    for index, image in enumerate(images):
        # The folder of the first image is that of another class.
        name = names[best[index] if index else (best[index] + 1) % 10].replace("/", "_")
        (tmp_path / "tree" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "tree" / name / f"[red]{index}.png")
    (tmp_path / "tree" / "bad\nname.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / "tree"), "--workdir", str(lenet_run.workdir)]) == 1
    out, err = capsys.readouterr()
    labeled = sum("/" not in names[k] for k in (*best[1:], (best[0] + 1) % 10))
    right = sum("/" not in names[k] for k in best[1:])
    assert f"top-1 accuracy {right / labeled:.2%}, top-5 accuracy" in out
    assert f"on {labeled} images in folders with names of classes" in out
    assert "[red]0.png" in out
    assert err == f"jaxcnn: {tmp_path}/tree/bad\\nname.png cannot be read as an image: the file is empty\n"


def test_several_files_of_which_none_can_be_read_are_listed_with_status_1(lenet_run, tmp_path, capsys):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        file.write_bytes(b"")
    assert main(["predict", *map(str, files), "--workdir", str(lenet_run.workdir), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert all(f"jaxcnn: {file} cannot be read" in err for file in files)


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
        ([str(tmp_path / "empty"), *workdir], "no images found in"),
        ([*workdir], "image"),
        ([str(image), "--workdir", "/nowhere"], "/nowhere does not exist"),
        ([str(image), *workdir, "--top", "0"], "top must be at least 1"),
        ([str(image), *workdir, "--top", "11"], "at most 10, the number of classes"),
        ([str(image), *workdir, "--json", "--format", "csv"], "mutually exclusive"),
        ([str(image), *workdir, "--checkpoint", "7"], "Steps kept: 60"),
        ([str(image), *workdir, "--weights", "x.pth"], "--workdir and --weights are mutually exclusive"),
        ([str(image), "--weights", "x.pth"], "Give --model, such as"),
        ([str(image), "--weights", "x.pth", "--model", "lenet5"], "x.pth"),
        ([str(image), *workdir, "--image-size", "32"], "C5 has weights for 400 inputs, got 576"),
        ([str(image), *workdir, "--crop-fraction", "2"], "crop_fraction must be"),
        ([str(image), *workdir, "--resize", "20"], "--resize 20 is less than the image size 28"),
        ([str(image), *workdir, "--resize", "32", "--crop-fraction", "0.5"], "does not apply to --resize 32"),
        ([str(image), *workdir, "--std", "0"], "std must be positive"),
    ):
        assert main(["predict", *args]) == 2, args
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1


def test_weights_predict_as_their_run_with_names_from_a_file(lenet_run, folder, tmp_path, capsys):
    weights, names = tmp_path / "lenet5.safetensors", tmp_path / "names.txt"
    assert main(["convert", "--workdir", str(lenet_run.workdir), "--out", str(weights)]) == 0
    names.write_text("\ufeff" + "\r\n".join(load_run(lenet_run.workdir).preprocessing.class_names) + "\n\n")
    capsys.readouterr()
    args = ["predict", str(folder), "--format", "csv"]
    assert main([*args, "--workdir", str(lenet_run.workdir)]) == 0
    wanted = capsys.readouterr().out
    assert main([*args, "--model", "lenet5", "--weights", str(weights), "--classes", str(names)]) == 0
    out, err = capsys.readouterr()
    assert out == wanted
    assert f"lenet5 with the weights of {weights}" in err
    changed = ["--top", "1", "--image-size", "28", "28", "--mean", "0.9"]  # images may follow the numbers
    assert main(["predict", "--model", "lenet5", "--weights", str(weights), *changed, *args[1:2], "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert all(row["class_1"].isdecimal() for row in rows)
    assert [row["probability_1"] for row in rows] != [line.split(",")[3] for line in wanted.splitlines()[1:]]
