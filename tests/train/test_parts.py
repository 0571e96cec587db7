"""Users pass their own model, loss, augmentation and optimizer as plain functions."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, OptimizerConfig, evaluate, fit
from jaxcnn.train.parts import CustomParts, describe
from jaxcnn.train.runtime.plan import make_plan

CONFIG = Config(steps=40, batch_size=64, progress=False)


class TinyNet(nn.Module):
    width: int = 8
    dtype: object = None

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2, dtype=self.dtype)(x))
        return nn.Dense(10, dtype=jnp.float32)(x.reshape(len(x), -1))


def hinge(logits, labels):
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)
    return jnp.maximum(0.0, 1.0 + logits - right).sum(-1) - 1.0


def invert_some(key, image):
    return jnp.where(jax.random.bernoulli(key, 0.1), 255 - image, image)


def adam_with_clipping(schedule):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: 0.05 * schedule(step)))


PARTS = {"model": TinyNet(), "loss": hinge, "augment": invert_some, "optimizer": adam_with_clipping}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(dataclasses.replace(CONFIG, workdir=str(tmp_path_factory.mktemp("run"))), **PARTS)


def test_a_run_of_ones_own_parts_learns(run):
    assert run.test_accuracy > 0.4  # ten classes: guessing gives 0.1
    assert run.values["params"] == 8 * 10 + 14 * 14 * 8 * 10 + 10


def test_the_folder_says_what_they_were(run):
    config = json.loads((run.workdir / "config.json").read_text())
    assert config["model"].endswith(".TinyNet(width=8, dtype=None)")
    assert config["loss"].endswith(".hinge")
    assert config["augment"][0].endswith(".invert_some")
    assert config["optimizer"]["name"].endswith(".adam_with_clipping")
    assert all(text.startswith("custom:") for text in (config["model"], config["loss"], config["augment"][0]))


def test_the_same_parts_continue_and_others_are_refused(run):
    config = dataclasses.replace(CONFIG, workdir=str(run.workdir))
    assert fit(config, **PARTS).values == run.values
    with pytest.raises(UsageError, match=r"model: 'custom:.*width=8.*' -> 'custom:.*width=4"):
        fit(config, **{**PARTS, "model": TinyNet(width=4)})
    with pytest.raises(UsageError, match=r"loss: 'custom:.*hinge' -> 'cross_entropy'"):
        fit(config, **{**PARTS, "loss": None})


def test_it_is_tested_again_with_them_and_not_without(run):
    assert evaluate(run.workdir, **PARTS)["test_accuracy"] == run.test_accuracy
    with pytest.raises(UsageError, match=r"this run used a custom model: .*TinyNet.*\. Pass this object .*: model="):
        evaluate(run.workdir)


def test_an_optax_transformation_is_taken_as_it_is():
    optimizer = optax.sgd(0.1)
    assert make_plan(CONFIG, CustomParts(optimizer=optimizer)).optimizer is optimizer


def test_half_precision_reaches_a_model_that_has_a_dtype_and_no_other():
    plan = make_plan(dataclasses.replace(CONFIG, dtype="bfloat16"), CustomParts(model=TinyNet()))
    assert plan.model.dtype == jnp.bfloat16

    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(10)(x.reshape(len(x), -1))

    with pytest.raises(UsageError, match="model Fixed has no field dtype"):
        make_plan(dataclasses.replace(CONFIG, dtype="bfloat16"), CustomParts(model=Fixed()))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"model": nn.Dense(10)}, "does not accept the argument train"),
        ({"loss": lambda logits, labels: hinge(logits, labels).mean()}, r"loss must return an array of shape \(2,\)"),
        ({"augment": lambda key, image: image[:14]}, r"augment must return an array of shape \(28, 28, 1\)"),
    ],
)
def test_parts_that_return_something_else_are_refused_before_compiling(part, message):
    with pytest.raises(UsageError, match=message):
        make_plan(CONFIG, CustomParts(**part))


def test_keywords_are_of_named_optimizers():
    for optimizer in (OptimizerConfig(momentum=0.5), OptimizerConfig("adam", b2=0.95)):
        config = dataclasses.replace(CONFIG, optimizer=optimizer)
        with pytest.raises(UsageError, match="optimizer keywords do not apply to your own optimizer"):
            make_plan(config, CustomParts(optimizer=optax.sgd(0.1)))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (OptimizerConfig(weight_decay=0.1), "optimizer.weight_decay does not apply to your own optimizer, got 0.1"),
        (OptimizerConfig(clip_norm=1.0), "optimizer.clip_norm does not apply to your own optimizer"),
        (OptimizerConfig(learning_rate=0.3), "optimizer.learning_rate does not apply to your own optimizer"),
    ],
)
def test_fields_that_ones_own_optimizer_does_not_use_are_refused(optimizer, message):
    with pytest.raises(UsageError, match=message):
        make_plan(dataclasses.replace(CONFIG, optimizer=optimizer), CustomParts(optimizer=optax.sgd(0.1)))


def test_a_function_of_the_schedule_uses_the_learning_rate():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.3))
    make_plan(config, CustomParts(optimizer=optax.sgd))


def test_a_run_records_the_momentum_that_it_uses():
    for name, momentum in (("momentum", 0.9), ("muon", 0.9), ("sgd", None), ("adam", None)):
        plan = make_plan(dataclasses.replace(CONFIG, optimizer=OptimizerConfig(name)))
        assert plan.config.optimizer == OptimizerConfig(name, momentum=momentum)


def test_descriptions_tell_functions_arguments_and_fields_apart():
    assert describe(hinge).endswith("test_parts.hinge")
    assert describe(functools.partial(hinge, margin=2)) == f"{describe(hinge)}(margin=2)"
    assert describe(TinyNet(width=3)) != describe(TinyNet(width=4))
    assert "0x" not in describe(nn.Dense(3, kernel_init=nn.initializers.he_normal()))
    assert describe(optax.sgd(0.1)).startswith("optax.")


OPTIONS = {
    "batch of one, one device": ({"batch_size": 1}, {"batch_size": 1, "accumulate": 1, "devices": 1}),
    "whole dataset": ({"batch_size": "full"}, {"batch_size": 10_000, "accumulate": 3, "devices": 8}),
    "whole dataset by hand": (
        {"batch_size": "full", "accumulate": 10},
        {"batch_size": 10_000, "accumulate": 10, "devices": 8},
    ),
    "mini-batch": ({"batch_size": 64, "accumulate": 4}, {"batch_size": 64, "accumulate": 4, "devices": 8}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_descent_in_three_ways(name):
    given, expected = OPTIONS[name]
    plan = make_plan(dataclasses.replace(CONFIG, **given))
    found = {"batch_size": plan.batch_size, "accumulate": plan.accumulate, "devices": len(plan.parallel.devices)}
    assert found == expected


def test_full_batch_gradient_descent_makes_one_step_an_epoch(tmp_path):
    config = dataclasses.replace(CONFIG, batch_size="full", steps=None, epochs=2, workdir=str(tmp_path))
    result = fit(config, model=TinyNet())
    assert (result.values["steps"], result.values["batch_size"]) == (2, 10_000)
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == "full"
    assert int(result.state.step) == 2


def test_accumulation_says_what_batch_norm_does():
    config = dataclasses.replace(CONFIG, model="resnet20_cifar", accumulate=2, model_options=("stage_sizes=(1,1,1)",))
    (note,) = make_plan(config).notes()
    assert "2 micro-batches of about 4 images per device; batch normalization computes its statistics over each" in note
    assert "batch normalization" not in make_plan(dataclasses.replace(CONFIG, accumulate=2)).notes()[0]
    assert make_plan(CONFIG).notes() == []


def test_options_reach_the_model():
    config = dataclasses.replace(
        CONFIG, model="resnet20_cifar", model_options=("drop_path_rate=0.2", "stem=cifar"), dtype="bfloat16"
    )
    model = make_plan(config).model
    assert (model.drop_path_rate, model.stem, model.dtype) == (0.2, "cifar", jnp.bfloat16)


def test_the_state_holds_averages_and_a_scale_only_where_asked_for():
    plain = make_plan(CONFIG).template
    assert plain.ema == {}
    full = make_plan(dataclasses.replace(CONFIG, ema_decay=0.99, dtype="float16")).template
    assert set(full.ema) == {"params", "batch_stats"}
    assert full.opt_state.scale.dtype == np.float32


REFUSED = [
    ({"batch_size": "all"}, "batch_size must be an integer or 'full', got 'all'"),
    ({"batch_size": 64, "accumulate": 3}, "accumulate 3 does not divide the 8 images of a batch on each device; use 2"),
    ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ({"mixup": -1.0}, "mixup must not be negative"),
    ({"cutmix": float("nan")}, "cutmix must not be negative, got nan"),
    ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 0.9\]"),
    ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
    ({"dtype": "bfloat8"}, "unknown dtype 'bfloat8'; did you mean 'bfloat16'"),
    ({"tta": "flips"}, "unknown tta 'flips'; did you mean 'flip'"),
    ({"loss": "cross_entropi"}, "unknown loss 'cross_entropi'; did you mean 'cross_entropy'"),
    ({"model_options": ("stem",)}, "model_options must have the form NAME=VALUE, got 'stem'"),
    ({"model_options": ("dtype=1",)}, "model_options cannot set 'dtype'"),
    ({"model_options": ("width=3",)}, "unknown field of lenet5 'width'"),
    ({"optimizer": OptimizerConfig("adam", b3=0.9)}, "unknown keyword of optimizer adam 'b3'; did you mean 'b1|b2'"),
    ({"optimizer": OptimizerConfig("adam", momentum=0.9)}, "unknown keyword of optimizer adam 'momentum'; known: b1,"),
    ({"optimizer": OptimizerConfig("adam", mask=print)}, "mask must be a number, string, True, False, None or a tuple"),
    ({"parallel": "pmpa"}, "unknown parallel 'pmpa'; did you mean 'pmap'"),
    ({"image_size": 0}, "image_size must be from 1 to 16384, got 0"),
    ({"accumulate": 10**20}, "accumulate 100000000000000000000 does not divide the 8 images of a batch .*; use 8"),
    ({"batch_size": "full", "accumulate": 20_000}, "accumulate 20000 is more than the 1250 training images on each"),
    ({"mixup": 1e300}, r"mixup must be 0 or from 1e-6 to 100, got 1e\+300"),
    (
        {"optimizer": OptimizerConfig(learning_rate=1e-300)},
        "must be a number that float32 holds .*, got 1e-300",
    ),
    ({"optimizer": OptimizerConfig("sgd", nesterov=True)}, "nesterov of optimizer sgd has no effect without momentum"),
    ({"optimizer": OptimizerConfig(clip_norm=0.0)}, "optimizer.clip_norm must be a positive number"),
    ({"optimizer": OptimizerConfig(learning_rate=float("inf"))}, "optimizer.learning_rate must be a positive number"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_refused_before_compiling(change, message):
    with pytest.raises(UsageError, match=message):
        make_plan(dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize("milestones", [(), (0.5, 0.5), (0.7, 0.3), (0.0, 0.5), (0.5, 1.0)])
def test_milestones_that_do_not_grow_are_refused(milestones):
    schedule = dataclasses.replace(CONFIG.schedule, name="step", milestones=milestones)
    with pytest.raises(UsageError, match=r"schedule.milestones must grow between 0 and 1"):
        make_plan(dataclasses.replace(CONFIG, schedule=schedule))
