"""The command line: what it prints, and how runs continue."""

import json

import pytest

from jaxcnn.cli import main

TINY = ["--steps", "3", "--batch-size", "64", "--no-progress"]


def test_train_and_eval_agree(tmp_path, capsys):
    assert main(["train", *TINY, "--workdir", str(tmp_path / "run"), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["eval", "--workdir", str(tmp_path / "run"), "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"]
    assert tested["test_examples"] == trained["test_examples"] == 2000
    assert main(["eval", "--workdir", str(tmp_path / "run")]) == 0
    assert "2,000" in capsys.readouterr().out


def test_a_recipe_is_overridden_by_flags(tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from jaxcnn.train import Config, OptimizerConfig\n"
        "config = Config(steps=3, batch_size=64, progress=False, optimizer=OptimizerConfig('adam', 0.001))\n"
    )
    run = tmp_path / "run"
    assert main(["train", "--config", str(recipe), "--optimizer.learning-rate", "0.002", "--workdir", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["batch_size"], config["optimizer"]["name"]) == (64, "adam")
    assert config["optimizer"]["learning_rate"] == 0.002


def test_the_same_command_continues_and_another_is_refused(tmp_path, capsys):
    command = ["train", *TINY, "--workdir", str(tmp_path / "run")]
    assert main(command) == main(command) == 0
    capsys.readouterr()
    assert main([*command, "--seed", "5"]) == 2
    assert "seed: 0 -> 5" in capsys.readouterr().err


def test_models_and_datasets_are_listed(capsys):
    assert main(["models", "lenet*", "--json"]) == 0
    assert {"lenet5"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert main(["models"]) == 0
    assert "LeCun" in capsys.readouterr().out
    assert main(["datasets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["fashion_mnist_mini"]["prepared"]
    assert rows["fashion_mnist_mini"]["training images"] == 10_000
    assert main(["datasets"]) == 0
    assert "28x28x1" in capsys.readouterr().out


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_without_a_command_all_are_explained(args, capsys):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "eval", "models", "datasets"))


@pytest.mark.parametrize("command", ["train", "eval", "models", "datasets"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"jaxcnn {command}" in capsys.readouterr().out
