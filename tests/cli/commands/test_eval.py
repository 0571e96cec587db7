"""`jaxcnn eval`: a run tested again."""

import json

import pytest

from jaxcnn.cli import main


def test_json_has_the_accuracy_that_training_reported(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == lenet_run.test_accuracy
    assert tested["test_examples"] == 2000


def test_the_table_has_the_number_of_images(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir)]) == 0
    assert "2,000" in capsys.readouterr().out
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--checkpoint", "best", "--per-class"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("step")] == [["step", "60"]]
    assert "top-5 accuracy" in out
    assert len([line for line in out.splitlines() if "%" in line and line.startswith("T-shirt/top")]) == 1


def test_json_has_the_values_of_each_class(lenet_run, capsys):
    assert main(["eval", "--workdir", str(lenet_run.workdir), "--json", "--dataset", "fashion_mnist_mini"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["classes"]) == 10
    assert sum(row["examples"] for row in values["classes"]) == values["test_examples"]


def test_weights_are_evaluated_like_their_run(lenet_run, tmp_path, capsys):
    weights = tmp_path / "lenet5.safetensors"
    assert main(["convert", "--workdir", str(lenet_run.workdir), "--out", str(weights)]) == 0
    capsys.readouterr()
    args = ["eval", "--model", "lenet5", "--weights", str(weights), "--json"]
    assert main([*args, "--dataset", "fashion_mnist_mini"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["test_accuracy"] == lenet_run.test_accuracy
    assert values["classes"][0]["class"] == "T-shirt/top"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--workdir", "RUN", "--checkpoint", "61"], "Steps kept: 60"),
        (["--workdir", "RUN", "--checkpoint", "bets"], "must be latest, best or a step"),
        (["--workdir", "RUN", "--dataset", "fashion_mnist_mni"], "did you mean 'fashion_mnist_mini'?"),
        (["--workdir", "RUN", "--model", "resnet18"], "trained lenet5, not resnet18"),
        (["--workdir", "RUN", "--classes", "names.txt"], "--workdir and --classes are mutually exclusive"),
        (["--model", "lenet5"], "--weights"),
        (["--model", "lenet5", "--weights", "x.pth"], "with --dataset"),
        (["--model", "lenet5", "--weights", "x.pth", "--checkpoint", "best"], "--checkpoint applies only to runs"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(args, says, lenet_run, capsys):
    assert main(["eval", *(str(lenet_run.workdir) if arg == "RUN" else arg for arg in args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
