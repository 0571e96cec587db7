"""A mistake on the command line gives one line and status 2, and nothing is done."""

import contextlib
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.kernels import native
from jaxcnn.kernels.native import _build
from jaxcnn.models import list_models
from jaxcnn.train import Config
from jaxcnn.train.config import from_dict, to_dict, validate

MISTAKES = {
    "tarin": "did you mean 'train'?",
    "train --model lenet": "did you mean 'lenet5'?",
    "train --model resnet20_cifr": "did you mean 'resnet20_cifar'?",
    "train --dataset fashion_mnist_mni": "did you mean 'fashion_mnist_mini'?",
    "train --dataset ../secrets": "unknown dataset '../secrets'",
    "train --dataset /etc": "unknown dataset '/etc'",
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
    "train --optimizer.name adam --optimizer.momentum 0.9": "unknown keyword of optimizer adam 'momentum'",
    "train --optimizer.name adam --optimizer.b3 0.9": "of optimizer adam; did you mean --optimizer.b",
    "train --optimizer.name lars --optimizer.trust-coeficient 1": "did you mean --optimizer.trust-coefficient?",
    "train --optimizer.trust-coefficient 1": "unknown flag --optimizer.trust-coefficient of optimizer momentum",
    "train --optimizer.name adam --optimizer.b2 many": "b2 of optimizer adam must be a number, got 'many'",
    "train --optimizer.name adam --optimizer.b2": "b2 of optimizer adam must be a number, got True",
    "train --optimizer.name adam --optimizer.b2=nan": "b2 of optimizer adam must be a number",
    "train --optimizer.nesterov 1": "nesterov of optimizer momentum must be True or False, got 1",
    "train --optimizer.name admm --optimizer.b2 1": "unknown optimizer 'admm'; did you mean 'adam'?",
    "train --optimizer.options b2=1": "unknown flag --optimizer.options of optimizer momentum",
    "find-lr --optimizer.b2 0.9": "unknown flag --optimizer.b2 of optimizer momentum",
    "train --processes 2 --distributed": "--processes and --distributed are mutually exclusive",
    "train --optimizer.weight-decay -1": "weight_decay must not be negative",
    "train --schedule.warmup-epochs 99": "leaves none of the run's",
    "train --workdir /dev/null/run": "cannot be written",
    "train --config nowhere.py": "does not exist",
    "train --dataset cifar10 --data-dir /nowhere": "not prepared in /nowhere",
    "eval": "--workdir",
    "eval --workdir /nowhere": "/nowhere does not exist",
    "models alexnettt --jsn": "did you mean --json?",
    "models nothing-like-it": "no model matches",
    "train --checkpoint-every 0": "checkpoint_every must be at least 1",
    "train --ema-decay 1": "ema_decay",
    "train --optimizer.name": "--optimizer.name",
    "train --epochs 1e400": "epochs must be a positive number",
    "train --steps 2.5": "--steps",
    "train --seed 4294967296": "seed must be from 0",
    "train --model": "--model",
    "train --model __import__('os').system('touch_hacked')": "unknown model",
    "train --dataset imagefolder:/nowhere": "/nowhere",
    "train --augment shift:0": "shift",
    "train --augment shift:x": "shift",
    "train --image-size 0": "image_size",
    "train lenet5": "lenet5",
    "find-lr --model lenet": "did you mean 'lenet5'?",
    "find-lr --try-steps 0": "steps must be at least 20",
    "find-lr --lowest 5 --highest 1": "5",
    "eval --workdir . --jsn": "did you mean --json?",
    "eval --workdir .": "config.json does not exist",
    "predict": "--workdir",
    "predict --workdir /nowhere a.png": "a.png does not exist",
    "convert": "neither of FILE and --workdir given",
    "convert nowhere.pth": "--model",
    "convert nowhere.pth --model resnet18": "nowhere.pth",
    "convert nowhere.pth --model resnet81": "did you mean 'resnet18'?",
    "convert --workdir /nowhere": "/nowhere",
    "models --pattern x": "--pattern",
    "summary": "model",
    "summary resnet05": "did you mean 'resnet",
    "summary nowhere:Net": "nowhere",
    "summary resnet18 --image-size 0": "image",
    "summary lenet5 --num-classes 0": "num_classes must be at least 1",
    "datasets --jso": "did you mean --json?",
    "datasets show nothing_like_it": "nothing_like_it",
    "prepare": "see jaxcnn prepare --help",
    "prepare cifra10 --source /nowhere": "did you mean 'cifar10'?",
    "prepare cifar10 --source /nowhere": "/nowhere",
    "benchmark --model resnet05": "resnet",
    "benchmark --mode trian": "train",
    "benchmark --dtype float23": "float",
    "benchmark --batch-sizes 0": "batch",
    "benchmark --batch-sizes many": "many",
    "benchmark compare nowhere.json nowhere.json": "nowhere.json",
}


def refusal(command, capsys):
    """The one line that a command ends with; nothing else is printed."""
    capsys.readouterr()
    status = main(command)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out.strip() == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("jaxcnn: ")
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(("command", "says"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(command, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(command.split(), capsys)
    assert not list(tmp_path.iterdir())  # nothing is left behind


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flag=st.sampled_from(["--model", "--dataset", "--optimizer.name", "--schedule.name", "--parallel", "--augment"]),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
)
def test_any_name_that_is_unknown_is_refused(flag, name, capsys, tmp_path):
    name = f"{name.strip('-') or 'x'}!"
    assert name not in list_models()
    refusal(["train", flag, name, "--workdir", str(tmp_path / "new")], capsys)
    assert not (tmp_path / "new").exists()


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = ATOMS | st.lists(ATOMS, max_size=3) | st.dictionaries(st.text(max_size=5), ATOMS, max_size=3)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(sorted(to_dict(Config()))), value=JSON)
def test_a_configuration_that_is_not_ours_is_read_or_refused_and_never_run(field, value):
    values = to_dict(Config())
    with contextlib.suppress(UsageError):
        validate(from_dict({**values, field: value}))  # raises nothing else


@settings(max_examples=100, deadline=None)
@given(value=JSON)
def test_json_that_is_no_configuration_is_refused(value):
    with pytest.raises(UsageError):
        from_dict(value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    flags = ["--steps", "2", "--batch-size", "64", "--no-progress", "--workdir", str(workdir)]
    assert main(["train", *flags]) == 0
    return workdir


DAMAGES = {
    "not JSON": "{",
    "no configuration": '{"model": "lenet5"}',
    "a list": "[1, 2]",
    "nothing": "",
    "a wrong type": lambda values: {**values, "batch_size": "many"},
    "a wrong type inside": lambda values: {**values, "optimizer": {**values["optimizer"], "learning_rate": None}},
    "a name that is code": lambda values: {**values, "model": "__import__('os').system('touch hacked')"},
    "an unknown field": lambda values: {**values, "epoch": 3},
    "another model": lambda values: {**values, "model": "resnet20_cifar"},
    "another optimizer": lambda values: {**values, "optimizer": {**values["optimizer"], "name": "adam"}},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_configuration_was_changed_is_refused(run, tmp_path, damage, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    path, how = tmp_path / "run" / "config.json", DAMAGES[damage]
    path.write_text(how if isinstance(how, str) else json.dumps(how(json.loads(path.read_text()))))
    before = sorted(tmp_path.rglob("*"))
    refusal(["eval", "--workdir", "run"], capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "holds no checkpoint yet" in refusal(["eval", "--workdir", str(tmp_path / "run")], capsys)


@pytest.mark.parametrize(("value", "message"), [("nativ", "did you mean 'native'?"), ("native", "no native kernels")])
def test_kernels_that_cannot_be_used_are_refused_before_anything_is_written(
    value, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(native, "_library", lambda: _build.NotBuilt("oneDNN is not installed"))
    monkeypatch.setenv("JAXCNN_KERNELS", value)
    assert message in refusal(["train", "--steps", "2", "--workdir", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()
