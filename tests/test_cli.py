"""The command line: what it prints, and one line and status 2 for every mistake."""

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


MISTAKES = {
    "tarin": "did you mean 'train'?",
    "train --model lenet": "did you mean 'lenet5'?",
    "train --model resnet20_cifr": "did you mean 'resnet20_cifar'?",
    "train --dataset fashion_mnist_mni": "did you mean 'fashion_mnist_mini'?",
    "train --dataset ../secrets": "unknown data set '../secrets'",
    "train --dataset /etc": "unknown data set '/etc'",
    "train --optimizer.name momentun": "did you mean 'momentum'?",
    "train --schedule.name cosin": "did you mean 'cosine'?",
    "train --augment flip shft": "did you mean 'shift'?",
    "train --parallel pmpa": "'pmap'",
    "train --modle lenet5": "did you mean --model?",
    "train --optimizer.learning-rte 1": "did you mean --optimizer.learning-rate?",
    "train --batch-size many": "--batch-size",
    "train --batch-size 0": "batch_size must be at least 1, got 0",
    "train --batch-size -8": "batch_size must be at least 1, got -8",
    "train --batch-size 100": "batch_size 100 cannot be divided over 8 devices; use 96 or 104",
    "train --batch-size 16000": "more than the 10000 training images",
    "train --steps 0": "steps must be at least 1",
    "train --epochs -1": "epochs must be a positive number",
    "train --epochs nan": "epochs must be a positive number",
    "train --epochs inf": "epochs must be a positive number",
    "train --log-every 0": "log_every must be at least 1",
    "train --seed -1": "seed must be from 0",
    "train --optimizer.learning-rate 0": "learning_rate must be a positive number",
    "train --optimizer.learning-rate nan": "learning_rate must be a positive number",
    "train --optimizer.momentum 1": "momentum must be in [0, 1)",
    "train --optimizer.weight-decay -1": "weight_decay must not be negative",
    "train --schedule.warmup-epochs 99": "leaves none of the run's",
    "train --parallel jit --sync-batch-norm none": "sync_batch_norm must be 'all' under parallel 'jit'",
    "train --sync-batch-norm 3": "sync_batch_norm must be 'all', 'none' or a divisor of the 8 devices, got 3",
    "train --shard-state": "shard_state needs parallel 'jit'",
    "train --steps-per-dispatch 0": "steps_per_dispatch must be at least 1",
    "train --processes 0": "--processes must be at least 1",
    "train --processes 2 --distributed": "--processes starts processes of its own",
    "train --processes 2 --batch-size 0": "batch_size must be at least 1, got 0",
    "train --devices-per-process 2": "needs --processes",
    "train --coordinator localhost:1234": "need --distributed",
    "train --distributed --coordinator localhost:1234": "go together",
    "train --distributed --coordinator here --num-processes 2 --process-id 0": "HOST:PORT",
    "train --distributed --coordinator localhost:1234 --num-processes 2 --process-id 2": "must be from 0 to 1",
    "train --workdir /dev/null/run": "cannot be written",
    "train --config nowhere.py": "does not exist",
    "train --dataset cifar10 --data-dir /nowhere": "not prepared in /nowhere",
    "eval": "--workdir",
    "eval --workdir /nowhere": "/nowhere does not exist",
    "models alexnettt --jsn": "did you mean --json?",
    "models nothing-like-it": "no model matches",
}


@pytest.mark.parametrize(("command", "says"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(command, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert says in err
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_damaged_run_is_one_line_and_status_2(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *TINY, "--workdir", str(run)]) == 0
    capsys.readouterr()
    for damage in ("{", '{"model": "lenet5"}'):
        (run / "config.json").write_text(damage)
        assert main(["eval", "--workdir", str(run)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
