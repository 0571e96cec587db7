"""`jaxcnn datasets`: the datasets, as a table or JSON."""

import json

from jaxcnn.cli import main


def test_json_says_which_datasets_are_prepared(capsys):
    assert main(["datasets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["fashion_mnist_mini"]["prepared"]
    assert rows["fashion_mnist_mini"]["training images"] == 10_000


def test_the_table_has_the_shapes_of_images(capsys):
    assert main(["datasets"]) == 0
    assert "28x28x1" in capsys.readouterr().out
