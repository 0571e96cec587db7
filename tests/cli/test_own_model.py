"""A user's own model is imported from a file or a module, and errors are one line."""

import dataclasses

import pytest

from jaxcnn.cli import main
from jaxcnn.cli._own_model import own_model
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, fit

SOURCE = """
from __future__ import annotations

import flax.linen as nn

import helper_of_own_model


class Net(nn.Module):
    num_classes: int
    width: int = helper_of_own_model.WIDTH
    note: str = "long " * 1000  # a description of thousands of characters

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(self.width, (3, 3), strides=4)(x)).mean((1, 2)))


def make(num_classes):
    return Net(num_classes)


def needs(width, num_classes):
    return Net(num_classes, width)


def fails():
    raise RuntimeError("two\\nlines")


def number():
    return 3


network = Net(10)
wide = Net(10, 5)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_net.py").write_text(SOURCE)
    (folder / "helper_of_own_model.py").write_text("WIDTH = 2\n")
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Return the directory of a run of an own model."""
    model = own_model(f"{folder}/own_net.py:make", 10)
    fit(Config(steps=1, batch_size=8, progress=False, workdir=str(folder / "run")), model=model)
    return folder / "run"


@pytest.mark.parametrize("name", ["Net", "make", "network"])
def test_a_class_a_function_or_an_instance_is_taken(name, folder):
    model = own_model(f"{folder}/own_net.py:{name}", 10)
    assert (type(model).__name__, model.num_classes, model.width) == ("Net", 10, 2)


def test_a_module_is_found_in_the_current_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert own_model("own_net:make", 10) == own_model("own_net.py:make", 10)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_net.py:nett", "did you mean 'Net'"),
        ("own_net.py:needs", "has required arguments: width"),
        ("own_net.py:fails", "failed: RuntimeError: two lines"),
        ("own_net.py:number", "returns int. Return a Linen module instead"),
        ("own_net.py:__name__", "has type str"),
        ("own_net.py:", "FILE.py:NAME"),
        ("broken.py:x", "cannot import broken.py: SyntaxError"),
        ("leaves.py:x", "cannot import leaves.py: SystemExit: 3"),
        ("none.py:x", "none.py does not exist"),
        ("no_such_module:x", "cannot import no_such_module: ModuleNotFoundError"),
        ("os:abort", "os is a module of Python's standard library"),
        ("builtins:exit", "builtins is a module of Python"),
    ],
)
def test_a_mistake_is_one_line(name, says, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError) as error:
        own_model(name, 10)
    assert says in str(error.value)
    assert len(str(error.value)) < 300


COMMANDS = {
    "eval": [],
    "predict": ["IMAGE"],
    "visualize": ["filters", "--out", "OUT"],
    "export": ["--out", "OUT"],
    "convert": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_run_of_an_own_model_with_the_model_only(command, folder, run, tmp_path, capsys):
    from PIL import Image

    Image.new("L", (28, 28)).save(tmp_path / "x.png")
    places = {"IMAGE": str(tmp_path / "x.png"), "OUT": str(tmp_path / "out")}
    args = [command, *(places.get(arg, arg) for arg in COMMANDS[command]), "--workdir", str(run)]
    for model, says in (
        ([], "--model FILE.py:NAME"),
        (["--model", "lenet5"], "Omit --model, or give your own model as FILE.py:NAME"),
        (["--model", f"{folder}/own_net.py:wide"], "belongs to another model"),
    ):
        assert main([*args, *model]) == 2
        out, err = capsys.readouterr()
        assert says in err
        assert out == ""
        assert len(err) < 600
        assert err.count("\n") == 1
    assert main([*args, "--model", f"{folder}/own_net.py:Net", "--checkpoint", "best"]) == 0
    out, err = capsys.readouterr()
    assert "step 1" in " ".join((out + err).split())
    assert max(map(len, out.splitlines())) < 200


def test_a_run_of_another_number_of_pixels_is_one_line(folder, run, capsys):
    args = ["--workdir", str(run), "--model", f"{folder}/own_net.py:make"]
    assert main(["eval", *args, "--mean", "0.5", "0.5", "0.5"]) == 2
    assert "--mean has 3 values, but images have 1 channels" in capsys.readouterr().err


def test_the_description_of_a_model_stays_short_in_results(folder, run):
    from jaxcnn.train import evaluate

    model = own_model(f"{folder}/own_net.py:make", 10)
    assert len(evaluate(run, model=model)["model"]) == 100
    with pytest.raises(UsageError) as error:
        evaluate(run)
    assert len(str(error.value)) < 300
    assert dataclasses.is_dataclass(model)
