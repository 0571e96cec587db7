"""`jaxcnn train`: its result, resumption, and configurations from files."""

import json

import pytest

from jaxcnn.cli import main
from jaxcnn.cli.commands import train
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig
from jaxcnn.train.config import to_dict


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return a command that trains for three steps in a directory of its own."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return ["train", "--steps", "3", "--batch-size", "64", "--no-progress", "--workdir", str(workdir), "--json"]


def test_the_result_is_the_one_that_eval_finds(command, capsys):
    assert main(command) == 0
    out, err = capsys.readouterr()
    trained = json.loads(out)
    # --no-progress prints the result, and nothing before it.
    assert "test accuracy" in err
    assert "folder" in err
    assert "images/s while training" in err
    assert len(err.splitlines()) < 16
    assert "step     3" not in err
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
    command = ["train", "--config", str(recipe)]
    assert main([*command, "--optimizer.learning-rate", "0.002"]) == 2
    assert main([*command, "--epochs", "2"]) == 2
    optimizer = OptimizerConfig("adam", 0.001)
    assert given == [
        Config(steps=3, batch_size=64, progress=False, optimizer=OptimizerConfig("adam", 0.002)),
        Config(epochs=2, batch_size=64, progress=False, optimizer=optimizer),
    ]


def test_a_recipe_may_start_with_a_byte_order_mark_and_use_numpy(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import numpy as np\nfrom jaxcnn.train import Config\n"
        "config = Config(epochs=90, augment=['flip'], batch_size=np.int64(8), label_smoothing=np.float64(0.2))\n",
        encoding="utf-8-sig",
    )
    given = []
    monkeypatch.setattr(train.train, "fit", lambda config, **_: given.append(config) or exit(7))
    with pytest.raises(SystemExit):
        main(["train", "--config", str(recipe), "--steps", "5"])
    assert given == [Config(steps=5, augment=("flip",), batch_size=8, label_smoothing=0.2)]
    assert json.dumps(to_dict(given[0]))
