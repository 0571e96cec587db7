"""`jaxcnn datasets`: the datasets, as a table or JSON."""

import json

from jaxcnn.cli import main
from jaxcnn.cli._output import print_rows


def test_json_says_which_datasets_are_prepared(capsys):
    assert main(["datasets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["fashion_mnist_mini"]["prepared"]
    assert rows["fashion_mnist_mini"]["training images"] == 10_000


def test_the_table_has_the_shapes_of_images(capsys, tmp_path):
    assert main(["datasets", "--data-dir", str(tmp_path)]) == 0
    assert "28x28x1" in capsys.readouterr().out


def test_long_names_leave_room_for_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = {"name": "imagefolder:" + "x" * 200, "image": "28x28x1", "images": 10_000, "folder": "/data/" + "y" * 99}
    print_rows([row, row | {"name": "mnist"}], as_json=False)
    out = capsys.readouterr().out
    assert "28x28x1" in out
    assert "10,000" in out
    assert "mnist" in out
