"""`jaxcnn eval`: a run tested again."""

import json

from jaxcnn.cli import main


def test_json_has_the_accuracy_that_training_reported(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == lenet_run.test_accuracy
    assert tested["test_examples"] == 2000


def test_the_table_has_the_number_of_images(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir)]) == 0
    assert "2,000" in capsys.readouterr().out
