"""Configurations are values, survive JSON, and can be read from version 0.1."""

import dataclasses
import json
import math
import pickle
from typing import get_type_hints

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig, fit
from jaxcnn.train.config import differences, from_dict, to_dict, validate

# The config.json of `jaxcnn train --steps 30 --optimizer.name adam --optimizer.learning-rate 0.001` by version 0.1.0.
CONFIG_0_1 = """
{
    "model": "lenet5",
    "model_options": [],
    "init_from": null,
    "freeze": null,
    "dataset": "fashion_mnist_mini",
    "data_dir": null,
    "image_size": null,
    "epochs": 30.0,
    "steps": 30,
    "batch_size": 64,
    "accumulate": null,
    "augment": [
        "shift:1"
    ],
    "mixup": 0.0,
    "cutmix": 0.0,
    "loss": "cross_entropy",
    "label_smoothing": 0.1,
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.001,
        "decay_all": false,
        "clip_norm": null,
        "learning_rate_scales": []
    },
    "schedule": {
        "name": "cosine",
        "warmup_epochs": 0.0,
        "milestones": [
            0.5,
            0.75
        ],
        "factor": 0.1,
        "power": 2.0,
        "end_factor": 0.0
    },
    "aux_weight": 0.3,
    "ema_decay": 0.0,
    "dtype": "float32",
    "tta": "none",
    "parallel": "auto",
    "sync_batch_norm": "all",
    "shard_state": false,
    "steps_per_dispatch": 1,
    "seed": 0,
    "workdir": null,
    "checkpoint_every": null,
    "log_every": 20,
    "tensorboard_images": 0,
    "wandb": false,
    "progress": false
}
"""


def test_optimizers_are_values_with_any_keyword():
    config = OptimizerConfig("adam", 1e-3, b2=0.95, eps=1e-6)
    same = OptimizerConfig(name="adam", learning_rate=1e-3, eps=1e-6, b2=0.95)
    assert config == same
    assert hash(config) == hash(same)
    assert config != OptimizerConfig("adam", 1e-3)
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, b2=0.9) == OptimizerConfig("adam", 1e-3, b2=0.9, eps=1e-6)
    assert dataclasses.replace(config, learning_rate=0.1).options == (("b2", 0.95), ("eps", 1e-6))
    assert OptimizerConfig("muon", ns_coeffs=[3.4, -4.8, 2.0]).options == (("ns_coeffs", (3.4, -4.8, 2.0)),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "sgd"


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(optimizer=OptimizerConfig("adam", b2=0.95, mu_dtype="bfloat16", nesterov=True)),
        Config(optimizer=OptimizerConfig("muon", ns_coeffs=(3.4, -4.8, 2.0), learning_rate_scales=("head=2",))),
        Config(batch_size="full", schedule=ScheduleConfig("step", milestones=(0.1, 0.2, 0.9)), sync_batch_norm=2),
    ],
)
def test_json_gives_back_the_same_configuration(config):
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(values) == config
    assert differences(values, to_dict(config)) == []


def test_differences_name_the_field():
    old = to_dict(Config(optimizer=OptimizerConfig("adam", b2=0.95)))
    new = to_dict(Config(optimizer=OptimizerConfig("adam", b2=0.9), seed=3, workdir="elsewhere"))
    assert differences(old, new) == ["optimizer.options.b2: 0.95 -> 0.9", "seed: 0 -> 3"]


def test_a_configuration_of_version_0_1_is_read():
    config = Config(steps=30, progress=False, optimizer=OptimizerConfig(name="adam", learning_rate=0.001))
    old = json.loads(CONFIG_0_1)
    assert from_dict(old) == config  # its momentum of 0.9 was not used by adam
    assert differences(old, to_dict(config)) == []
    assert differences(old, to_dict(dataclasses.replace(config, seed=1))) == ["seed: 0 -> 1"]
    with_momentum = {**old, "optimizer": {**old["optimizer"], "name": "nesterov", "momentum": 0.8}}
    assert from_dict(with_momentum).optimizer == OptimizerConfig("nesterov", 0.001, momentum=0.8)


@pytest.mark.parametrize("name", ["momentum", pytest.param("adam", marks=pytest.mark.slow)])
def test_a_run_of_version_0_1_is_resumed(name, tmp_path):
    """Its directory differs from one of today in config.json alone: the trees of states are the same."""
    optimizer = OptimizerConfig(name, 0.001)
    config = Config(steps=4, checkpoint_every=2, progress=False, optimizer=optimizer, workdir=str(tmp_path / "run"))
    whole = fit(config)
    old = json.loads(CONFIG_0_1)
    old |= {"steps": 4, "optimizer": {**old["optimizer"], "name": name}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(old))
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "checkpoints" / "4").rename(tmp_path / "4")
    assert fit(config).values["state_sha256"] == whole.values["state_sha256"]
    with pytest.raises(UsageError, match=r"optimizer.options.eps: None -> 0.1"):
        fit(dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, name="adam", eps=0.1)))


CONFIGS = {
    Config: lambda **change: Config(**change),
    OptimizerConfig: lambda **change: Config(optimizer=OptimizerConfig(**change)),
    ScheduleConfig: lambda **change: Config(schedule=ScheduleConfig(**change)),
}
NUMBERS = [
    (kind, name)
    for kind in CONFIGS
    for name, hint in get_type_hints(kind).items()
    if hint in (int, float, int | None, float | None)
]


@pytest.mark.parametrize("value", [-1, math.nan])
@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=str)
def test_every_number_has_a_check(kind, name, value):
    with pytest.raises(UsageError, match=f"{name} must .*, got {value}"):
        validate(CONFIGS[kind](**{name: value}))


TYPES = {
    "steps must be an integer or None, got 3.5": Config(steps=3.5),
    "steps must be an integer or None, got True": Config(steps=True),
    "batch_size must be an integer or 'full', got None": Config(batch_size=None),
    "augment must be a tuple of strings, got 'flip'": Config(augment="flip"),
    "dtype must be 'float32' or 'bfloat16' or 'float16', got 3": Config(dtype=3),
    "wandb must be True or False, got 1": Config(wandb=1),
    "optimizer must be OptimizerConfig": Config(optimizer="adam"),
    "optimizer.name must be a string, got None": Config(optimizer=OptimizerConfig(None)),
    r"schedule.milestones must be a tuple of numbers, got \('a',\)": Config(schedule=ScheduleConfig(milestones=("a",))),
}


@pytest.mark.parametrize(("says", "config"), TYPES.items())
def test_every_field_has_its_type(says, config):
    with pytest.raises(UsageError, match=says):
        validate(config)


def test_numpy_numbers_lists_and_paths_become_json_values(tmp_path):
    optimizer = OptimizerConfig("adam", np.float64(0.1), b2=np.float64(0.5))
    given = Config(steps=np.int64(3), augment=["flip"], workdir=tmp_path, optimizer=optimizer)
    wanted = Config(steps=3, augment=("flip",), workdir=str(tmp_path), optimizer=OptimizerConfig("adam", 0.1, b2=0.5))
    assert given == wanted
    assert hash(given) == hash(wanted)
    assert from_dict(json.loads(json.dumps(to_dict(given)))) == wanted


def test_epochs_and_steps_exclude_each_other_except_in_old_runs():
    with pytest.raises(UsageError, match=r"mutually exclusive, got epochs 5 and steps 30"):
        validate(Config(epochs=5.0, steps=30))
    old = {**json.loads(CONFIG_0_1), "epochs": 5.0}
    assert from_dict(old).epochs == Config.epochs
    assert differences(old, to_dict(from_dict(old))) == []
    validate(from_dict(old))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 2**31},
        {"epochs": 1e300},
        {"batch_size": 10**20},
        {"mixup": 1e300},
        {"cutmix": 101.0},
        {"aux_weight": 1e300},
        {"label_smoothing": 0.9999999},
        {"log_every": 10**20},
        {"steps_per_dispatch": 10**9},
        {"optimizer": OptimizerConfig(weight_decay=1e300)},
        {"optimizer": OptimizerConfig(clip_norm=1e300)},
        {"schedule": ScheduleConfig(power=1e300)},
        {"workdir": "gs://bucket/run"},
        {"data_dir": "a" * 300},
    ],
    ids=str,
)
def test_nonsense_is_refused(change):
    with pytest.raises(UsageError):
        validate(Config(**change))


def test_checks_name_the_field_and_the_value():
    with pytest.raises(UsageError, match=r"schedule.end_factor must be in \[0, 1\], got 2.0"):
        validate(Config(schedule=ScheduleConfig(end_factor=2.0)))
    with pytest.raises(UsageError, match="unknown dtype 'float8'; did you mean 'float"):
        validate(Config(dtype="float8"))
    with pytest.raises(UsageError, match="options: mask must be a number, string, True, False, None or a tuple"):
        validate(Config(optimizer=OptimizerConfig("adam", mask=lambda x: x)))
