"""`jaxcnn visualize`: every picture of a run, in files."""

import pytest
from PIL import Image

from jaxcnn import visualize
from jaxcnn.cli import main
from jaxcnn.train import load_run

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
        (["filters", "--out", "/dev/null/x"], "cannot be written"),
        (["everything"], "everything"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, lenet_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", *args, "--workdir", str(lenet_run.workdir)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
