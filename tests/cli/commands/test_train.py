"""`jaxcnn train`: its result, resumption, and configurations from files."""

import json

import pytest

from jaxcnn.cli import main
from jaxcnn.cli.commands import train
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return a command that trains for three steps in a directory of its own."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return ["train", "--steps", "3", "--batch-size", "64", "--no-progress", "--workdir", str(workdir), "--json"]


def test_the_result_is_the_one_that_eval_finds(command, capsys):
    assert main(command) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["eval", "--workdir", trained["workdir"], "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"]
    assert tested["test_examples"] == trained["test_examples"] == 2000


def test_the_same_command_resumes_and_another_is_refused(command, capsys):
    assert main(command) == main(command) == 0
    capsys.readouterr()
    assert main([*command, "--seed", "5"]) == 2
    assert "seed: 0 -> 5" in capsys.readouterr().err


def test_flags_override_the_configuration_in_a_file(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from jaxcnn.train import Config, OptimizerConfig\n"
        "config = Config(steps=3, batch_size=64, progress=False, optimizer=OptimizerConfig('adam', 0.001))\n"
    )
    given = []

    def fit(config, **_):
        given.append(config)
        raise UsageError("not trained")

    monkeypatch.setattr(train.train, "fit", fit)
    assert main(["train", "--config", str(recipe), "--optimizer.learning-rate", "0.002"]) == 2
    assert given == [Config(steps=3, batch_size=64, progress=False, optimizer=OptimizerConfig("adam", 0.002))]
