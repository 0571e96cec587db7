"""`jaxcnn summary`: a table that people read, JSON that programs read, and one line for every mistake."""

import json
import sys

import pytest

from jaxcnn.cli import main

USERS_MODULE = """
import functools, os
from os import abort
from sys import exit as leave

import flax.linen as nn
import jax.numpy as jnp

bound = functools.partial(os.abort)
partial_net = functools.partial(nn.Dense, 4)

class Plain:
    pass

class ThreeChannels(nn.Module):
    def __call__(self, x):
        return x @ jnp.ones((3, 3))

def raises():
    raise SystemExit(3)

class Net(nn.Module):
    num_classes: int = 7

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean((1, 2)))

class Wide(nn.Module):
    width: int

net = Net(3)

def factory():
    return Net()

def no_factory():
    return 5

def function(x):
    return nn.avg_pool(x, (2, 2), (2, 2))

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's file in the folder where the command is called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_net.py").write_text(USERS_MODULE)
    (tmp_path / "broken_net.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in ("users_net", "broken_net"):
        sys.modules.pop(name, None)


def summary(command, capsys):
    assert main(["summary", *command.split()]) == 0
    return capsys.readouterr().out


def test_a_table_of_every_layer_with_totals_fits_a_hundred_columns(capsys):
    lines = summary("resnet50", capsys).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "resnet50, images 224×224×3"
    assert lines[1].split() == ["name", "kind", "output", "params", "MACs", "field", "stride"]
    conv = next(line for line in lines if line.startswith("stage4_block3/conv2"))
    assert conv.split() == ["stage4_block3/conv2", "Conv", "7×7×512", "2,359,296", "115,605,504", "427×427", "32×32"]
    assert lines[-2].startswith("25,557,032 parameters, 4.089 GMACs, ")
    assert lines[-2].endswith("MiB of activations for one image")
    assert "7×7×2048: receptive field 427×427 pixels, stride 32×32" in lines[-1]


def test_json_has_rows_and_totals(capsys):
    said = json.loads(summary("resnet18 --image-size 64 --num-classes 10 --json", capsys))
    assert (said["model"], said["input_shape"]) == ("resnet18", [64, 64, 3])
    assert said["params"] == 11_689_512 - 990 * 513
    assert said["rows"][0]["output_shape"] == [1, 32, 32, 64]
    assert said["rows"][-1]["output_shape"] == [1, 10]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5", [28, 28, 1]), ("resnet20_cifar", [32, 32, 3]), ("alexnet_two_tower", [227, 227, 3])],
)
def test_images_are_those_that_the_model_is_for_unless_others_are_asked_for(name, shape, capsys):
    assert json.loads(summary(f"{name} --json", capsys))["input_shape"] == shape
    assert json.loads(summary(f"{name} --input-shape 70 80 2 --json", capsys))["input_shape"] == [70, 80, 2]


@pytest.mark.parametrize(
    ("attribute", "params"),
    [
        ("net", 112 + 15),
        ("Net", 112 + 35),
        ("factory", 112 + 35),
        ("Net --num-classes 5", 112 + 25),
        ("function", 0),
        ("partial_net", 16),
    ],
)
def test_a_users_own_model_factory_or_function(attribute, params, module, capsys):
    path = list(sys.path)
    said = json.loads(summary(f"users_net:{attribute} --input-shape 8 8 3 --json", capsys))
    assert said["params"] == params
    assert said["rows"]
    assert sys.path == path
    assert "users_net:net, images 8×8×3" in summary("users_net:net --image-size 8", capsys)


MISTAKES = {
    "resnet5": "did you mean 'resnet50'?",
    "": "Missing from jaxcnn summary",
    "resnet50 --imge-size 3": "did you mean --image-size?",
    "resnet50 --image-size 0": "at least 1, got 0 0 3",
    "resnet50 --input-shape 8 8": "--input-shape",
    "resnet50 --input-shape 8 8 3 --image-size 8": "mutually exclusive",
    "resnet50 --num-classes 0": "num_classes must be at least 1",
    "vgg16 --image-size 31": "image too small for VGG: 31x31. Use at least 32x32.",
    "alexnet --input-shape 300 20 3": "image too small for AlexNet: 300x20. Use at least 63x63.",
    "resnet18 --image-size 100000000": "image height and width must be at most 16384",
    "resnet18 --num-classes 10000000000000": "num_classes must be at most 10,000,000",
    "os:abort": "os is a module of Python's standard library",
    "builtins:exit": "builtins is a module of Python",
    "users_net:abort": "users_net:abort is not a model",
    "users_net:leave": "users_net:leave is not a model",
    "users_net:bound": "users_net:bound is not a model",
    "users_net:Plain": "users_net:Plain is not a model",
    "users_net:raises": "users_net:raises cannot be called: SystemExit",
    "users_net:ThreeChannels --input-shape 8 8 1": "cannot be applied to images 8×8×1: TypeError",
    "jaxcnn.cli:main": "jaxcnn.cli:main is not a model",
    "users_net:net": "users_net:net has no default image shape; pass --input-shape H W C",
    "users_net:nett": "did you mean 'net'?",
    "users_net:number": "has type int; pass a Linen module, a factory or a function",
    "users_net:no_factory": "returns int; a factory must return a Linen module",
    "users_net:Wide": "has required arguments: width",
    "users_net:net --num-classes 5": "is a model instance",
    "users_net:factory --num-classes 5": "has no argument num_classes",
    "nowhere_to_be_found:net": "cannot import 'nowhere_to_be_found'",
    "broken_net:net": "cannot import 'broken_net': ZeroDivisionError",
    ":net": "cannot import ''",
    "users_net:": "unknown attribute of users_net ''",
}


@pytest.mark.parametrize(("command", "says"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(command, says, module, capsys):
    assert main(["summary", *command.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert says in err
