"""`jaxcnn sweep`: settings from lists of values, one table, and mistakes in one line."""

import json
from pathlib import Path

import pytest

from jaxcnn.cli import main
from jaxcnn.cli.commands import sweep
from jaxcnn.cli.commands.sweep import combinations, parse_seeds
from jaxcnn.train.many.results import NetworkResult, Results

SHORT = ["sweep", "--steps", "2", "--batch-size", "64", "--no-progress"]


def test_a_sweep_trains_each_combination_and_resumes(tmp_path, capsys):
    args = [*SHORT, "--seeds", "2", "--optimizer.learning-rate", "0.01,0.1", "--workdir", str(tmp_path / "sweep")]
    assert main([*args, "--json"]) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert [run["name"] for run in values["runs"]] == [
        *("seed=0,optimizer.learning_rate=0.01", "seed=1,optimizer.learning_rate=0.01"),
        *("seed=0,optimizer.learning_rate=0.1", "seed=1,optimizer.learning_rate=0.1"),
    ]
    assert "95 % interval" in printed.err
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    del written["sha256"]
    assert {**written, "workdir": values["workdir"]} == values
    assert main(["eval", "--workdir", values["runs"][0]["workdir"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_accuracy"] == values["runs"][0]["metrics"]["accuracy"]
    assert main(args) == 0  # everything is there
    assert "optimizer.learning_rate=0.1" in capsys.readouterr().out


@pytest.fixture
def asked(monkeypatch):
    """What the command asks `fit_many` for."""
    calls = []

    def fit_many(configs, **more):
        calls.append((configs, more))
        runs = [NetworkResult("n", config, more["workdir"], {}, "diverged") for config in configs]
        return Results(Path("x"), tuple(runs), "turns", 1.0)

    monkeypatch.setattr(sweep, "fit_many", fit_many)
    return calls


def test_flags_become_configurations(asked):
    flags = "--model lenet5,resnet20_cifar --optimizer.name=adam,adamw --optimizer.b2 0.9,0.95 --seeds 3,5 --how turns"
    assert main(["sweep", *flags.split(), "--augment", "flip", "crop:4", "--image-size", "28,32"]) == 0
    ((configs, more),) = asked
    assert len(configs) == 16
    assert {(c.model, c.optimizer.name, dict(c.optimizer.options)["b2"], c.image_size) for c in configs} == {
        (m, o, b, s)
        for m in ("lenet5", "resnet20_cifar")
        for o in ("adam", "adamw")
        for b in (0.9, 0.95)
        for s in (28, 32)
    }
    assert all(c.augment == ("flip", "crop:4") for c in configs)
    assert (more["seeds"], more["together"]) == ([3, 5], "turns")


def test_commas_that_belong_to_a_value_stay():
    for args in (
        ["--workdir", "a,b"],
        ["--freeze", "stem{1,2}"],
        ["--model-options", "a=1,2"],
        ["--augment", "a,b"],
        ["--optimizer.ns_coeffs", "(3.4, -4.7)"],
        ["--init-from=a,b"],
    ):
        assert list(combinations(args)) == [args]
    assert list(combinations(["--schedule.end-factor=0,0.1", "x"])) == [
        ["--schedule.end-factor=0", "x"],
        ["--schedule.end-factor=0.1", "x"],
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seeds 0", "--seeds must be a number of seeds, such as 10, or a list of seeds"),
        ("--seeds 1,x", "--seeds must be a number of seeds, such as 10, or a list of seeds"),
        ("--seeds 5000", "--seeds has too many seeds: 5000"),
        ("--seeds 1,1", "are the same run"),
        ("--seeds 2 --seed 3", "mutually exclusive"),
        ("--seeds 500 --optimizer.learning-rate 1,2,3", "the values and seeds give 1,500. Give fewer"),
        (f"--optimizer.momentum {','.join(['0.9'] * 40)} --seed {','.join(map(str, range(40)))}", "1,600 combinations"),
        ("--optimizer.learning-rate 0.1,,0.2", "--optimizer.learning-rate has an empty value"),
        ("--optimizer.learning-rate 0.1,-1", "optimizer.learning_rate must be a positive number, got -1"),
        ("--model lenet5,lenet6", "did you mean 'lenet5'?"),
        ("--how togehter", "--how"),
        ("--optimizer.b2 0.9,0.95", "unknown flag --optimizer.b2 of optimizer momentum"),
        ("--seedz 3", "did you mean --seed"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds("10") == list(range(10))
    assert parse_seeds("3,5,7") == [3, 5, 7]
