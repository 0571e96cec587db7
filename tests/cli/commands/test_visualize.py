"""`jaxcnn visualize`: every picture of a run, in files."""

import json
import shutil

import pytest
from PIL import Image

from jaxcnn import visualize
from jaxcnn.cli import main
from jaxcnn.train import Config, fit, load_run

NAMES = ("filters", "features", "grad-cam", "confusion", "mistakes", "field")


def test_all_pictures_of_a_run_are_drawn(lenet_run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["visualize", "--workdir", str(lenet_run.workdir), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / f"{name}.png") for name in NAMES]
    for name in NAMES:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 400


def test_layers_are_listed(lenet_run, capsys):
    assert main(["visualize", "layers", "--workdir", str(lenet_run.workdir)]) == 0
    trained = load_run(lenet_run.workdir)
    assert capsys.readouterr().out.split() == visualize.layer_names(trained.model, trained.variables, (28, 28, 1))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["features", "--layer", "C11"], "did you mean 'C1'"),
        (["grad-cam", "--label", "Ankle boots"], "did you mean 'Ankle boot'"),
        (["grad-cam", "--image", "none.png"], "does not exist"),
        (["filters", "--out", "/dev/null/x"], "--out cannot be used: /dev/null/x (Not a directory)"),
        (["filters", "--out", "/proc/x"], "cannot be written"),
        (["everything"], "everything"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, lenet_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", *args, "--workdir", str(lenet_run.workdir)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Return the directory of a run on an image folder: images differ in size, and class names are unusual."""
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "test"):
        for name, value in (("$a_b$ [red]", 0), ("\u53f6" * 70, 255)):
            (root / "images" / split / name).mkdir(parents=True)
            for index in range(4):
                color = (value, value, 40 * index)
                Image.new("RGB", (20 + index, 30), color).save(root / "images" / split / name / f"{index}.png")
    config = Config(
        dataset=f"imagefolder:{root / 'images'}",
        data_dir=str(root / "prepared"),
        image_size=28,
        steps=1,
        batch_size=8,
        augment=(),
        progress=False,
        workdir=str(root / "run"),
    )
    fit(config)
    return root / "run"


def test_a_run_on_images_of_different_sizes_is_drawn(photographs, tmp_path, capsys):
    assert main(["visualize", "--workdir", str(photographs), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    drawn = {*out.split()}
    assert {str(tmp_path / "out" / f"{name}.png") for name in NAMES if name != "mistakes"} <= drawn
    assert "checkpoint of step 1" in err
    assert ("mistakes is left out: no mistakes to show" in err) == (str(tmp_path / "out" / "mistakes.png") not in drawn)


def test_missing_data_is_needed_for_test_images_only(photographs, tmp_path, capsys):
    run = shutil.copytree(photographs, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    del config["sha256"]  # as a person accepts an edit
    (run / "config.json").write_text(json.dumps({**config, "dataset": f"imagefolder:{tmp_path / 'gone'}"}))
    assert main(["visualize", "--workdir", str(run)]) == 2
    message = f"{tmp_path / 'gone'} does not exist. Give the new path of the data with --dataset"
    assert message in capsys.readouterr().err
    assert main(["visualize", "filters", "--workdir", str(run)]) == 0
    image = next(photographs.parent.rglob("*.png"))
    assert main(["visualize", "features", "--workdir", str(run), "--image", str(image)]) == 0
