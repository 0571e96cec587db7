"""`jaxcnn models`: the architectures, as a table or JSON."""

import json

from jaxcnn.cli import main


def test_json_has_the_models_that_match(capsys):
    assert main(["models", "lenet*", "--json"]) == 0
    assert {"lenet5"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


def test_the_table_names_the_papers(capsys):
    assert main(["models"]) == 0
    assert "LeCun" in capsys.readouterr().out
