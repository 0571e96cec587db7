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

JOB = "--distributed --coordinator 127.0.0.1:1 --num-processes 2 --process-id 0"
MISTAKES = {
    "tarin": "did you mean 'train'?",
    "train --model lenet": "did you mean 'lenet5'?",
    "train --model resnet20_cifr": "did you mean 'resnet20_cifar'?",
    "train --dataset fashion_mnist_mni": "did you mean 'fashion_mnist_mini'?",
    "train --dataset ../secrets": "unknown dataset '../secrets'",
    "train --dataset /etc": "unknown dataset '/etc'; did you mean 'imagefolder:/etc'?",
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
    "train --rendezvous-timeout 60": "--rendezvous-timeout needs --distributed, --coordinator",
    f"train {JOB} --rendezvous-timeout 60": "--rendezvous-timeout needs --workdir",
    f"train {JOB} --workdir run --rendezvous-timeout 9": "--rendezvous-timeout must be at least --heartbeat (30)",
    f"train {JOB} --workdir run --rendezvous-timeout 0": "--rendezvous-timeout must be at least 1",
    "train --optimizer.weight-decay -1": "weight_decay must not be negative",
    "train --schedule.warmup-epochs 99": "is not shorter than the run",
    "train --workdir /dev/null/run": "workdir cannot be used: /dev/null/run (Not a directory)",
    "train --workdir gs://bucket/run": "workdir is a URL: gs://bucket/run. Give a path on this machine",
    "train --workdir ~no_such_user/x": "workdir names an unknown home directory: ~no_such_user/x",
    f"train --workdir {'a' * 300}": "workdir is not a path",
    "train --data-dir s3://bucket --dataset mnist": "data_dir is a URL",
    f"train --dataset {'a' * 300}": "unknown dataset 'aaa",
    f"train --init-from {'a' * 300}": "init_from is not a path",
    "find-lr --workdir gs://bucket/run": "--workdir is a URL",
    "find-lr --workdir ~no_such_user/x": "--workdir names an unknown home directory",
    "find-lr --lowest nan": "learning rates must be positive and increasing",
    "find-lr --lowest 1e-320": "learning rates must be from 1e-30 to 1e+30",
    "find-lr --try-steps 1000000000": "steps must be at most 100000",
    "benchmark --out gs://bucket": "--out is a URL",
    "benchmark --out ~no_such_user/x": "--out names an unknown home directory",
    f"benchmark --out {'a' * 300}": "--out is not a path",
    f"benchmark --batch-sizes {'9' * 5000}": "--batch-sizes is not a list of integers",
    "benchmark --image-size 100000000": "image_size is too large: 100000000. Give at most 16384",
    "benchmark --timeout 1e300": "--timeout must be a positive number: 1e+300",
    "benchmark --memory-limit nan": "--memory-limit must be a positive number: nan",
    f"benchmark compare {'a' * 300} x": "OLD is not a path",
    f"datasets --data-dir {'a' * 300}": "data_dir is not a path",
    f"datasets show {'a' * 300}": "unknown dataset 'aaa",
    "datasets show fashion_mnist_mini --seed -1": "--seed is out of range: -1",
    "datasets show fashion_mnist_mini --out ~no_such_user/x": "--out names an unknown home directory",
    "datasets show fashion_mnist_mini --augment shift:99": "too large for images of 28x28 pixels: 99",
    "prepare cifar10/x": "dataset 'cifar10' has no configurations",
    "prepare emnist/x": "unknown configuration of emnist 'x'; known: balanced",
    "prepare ..": "unknown dataset '..'",
    "train --model resnet20": "did you mean 'resnet20_cifar'?",
    "train --model alexnet": "image too small for AlexNet: 28x28. Use at least 63x63",
    "train --steps 2147483648": "steps must be at most 2^31 - 1",
    f"train --steps {'9' * 5000}": "--steps",
    "train --epochs 1e8": "epochs 1e+08 are too many: 15,625,000,000 steps",
    "train --epochs 3 --steps 4": "--epochs and --steps are mutually exclusive",
    "train --image-size 100000000": "image_size must be from 1 to 16384",
    "train --augment shift:99": "'shift:99' is too large for images of 28x28 pixels",
    "train --augment shift:100000000000000000000": "Give an integer from 1 to 16384",
    "train --augment cutout:1000": "'cutout:1000' is too large for images of 28x28 pixels",
    "train --augment flip flip": "augmentation 'flip' is given twice",
    "train --label-smoothing 0.9999999": "label_smoothing must be in [0, 0.9]",
    "train --mixup 1e300": "mixup must be 0 or from 1e-6 to 100",
    "train --cutmix inf": "cutmix must not be negative, got inf",
    "train --optimizer.weight-decay 1e300": "weight_decay must be at most 1,000,000",
    "train --optimizer.name adam --optimizer.b1 5": "b1 of optimizer adam must be in [0, 1), got 5",
    f"train --optimizer.name adam --optimizer.eps 1{'0' * 400}": "eps",
    "train --optimizer.name adam --optimizer.mu-dtype int8": "mu_dtype of optimizer adam must be a dtype",
    "train --optimizer.name adam --optimizer.mu-dtype (1.0,2.0).x": "mu_dtype of optimizer adam must be a dtype",
    "train --optimizer.name muon --optimizer.ns-steps 1000000000": "ns_steps of optimizer muon must be from 1 to 100",
    "train --model vgg11_bn --model-options stem=cifar widths=3": "model_options cannot be used: stem=cifar widths=3",
    "train --processes 1000000000": "--processes must be at most",
    "train --hang-timeout -1": "--hang-timeout must be at least 0",
    "train --heartbeat 100000000000000000000": "--heartbeat must be at most",
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
    "check": "see jaxcnn check --help",
    "check .": "holds no run",
    "check /nowhere": "does not exist",
    "eval --workdir . --jsn": "did you mean --json?",
    "eval --workdir .": "config.json does not exist",
    "predict": "--workdir",
    "predict --workdir /nowhere a.png": "image does not exist: a.png",
    "convert": "neither FILE nor --workdir is given",
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


@pytest.mark.parametrize(("command", "says"), MISTAKES.items(), ids=[command[:80] for command in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(command, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(command.split(), capsys)
    assert not list(tmp_path.iterdir())  # nothing is left behind


RECIPES = {
    "config = Config(steps=0": "(line 2): SyntaxError",
    "1 / 0": "(line 2): ZeroDivisionError: division by zero",
    "raise SystemExit(3)": "(line 2): SystemExit: 3",
    "raise BaseException": "(line 2): BaseException",
    "config = Config(stepz=3)": "unexpected keyword argument 'stepz'",
    "config = Config(steps='3')": "steps must be an integer or None, got '3'",
    "config = Config(optimizer='adam')": "optimizer must be OptimizerConfig(...), got 'adam'",
    "config = Config(augment='flip')": "augment must be a tuple of strings, got 'flip'",
    "config = Config(epochs=3, steps=4)": "epochs and steps are mutually exclusive",
    "config = 3": "must define `config",
    "\0": "cannot be run",
}


@pytest.mark.parametrize(("code", "says"), RECIPES.items())
def test_a_recipe_that_cannot_be_run_is_one_line(code, says, tmp_path, capsys):
    (tmp_path / "recipe.py").write_text(f"from jaxcnn.train import Config\n{code}\n")
    error = refusal(["train", "--config", str(tmp_path / "recipe.py"), "--workdir", str(tmp_path / "run")], capsys)
    assert says in error
    assert not (tmp_path / "run").exists()


def test_a_folder_is_suggested_as_an_image_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    assert "did you mean 'imagefolder:pics'?" in refusal(["train", "--dataset", "pics"], capsys)


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
    values = json.loads(path.read_text())
    del values["sha256"]  # as a person accepts an edit
    path.write_text(how if isinstance(how, str) else json.dumps(how(values)))
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
