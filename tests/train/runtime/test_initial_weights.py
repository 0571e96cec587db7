"""Runs that start from given weights, and train a part of them."""

import dataclasses
import json
import shutil
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxcnn import cli, weights
from jaxcnn.data import TfdsDataset
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Dense
from jaxcnn.models import create_model
from jaxcnn.train import Config, OptimizerConfig, evaluate, fit, load_run
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import plan as plan_module
from jaxcnn.train.runtime.plan import make_plan

LENET = Config(batch_size=200, steps=120, progress=False, optimizer=OptimizerConfig(learning_rate=0.1))
PROBE = dataclasses.replace(LENET, steps=25, freeze="(?!head)")
NORMALIZED = Config(batch_size=8, steps=2, augment=(), label_smoothing=0.0, progress=False)


class Normalized(nn.Module):
    """A small network with every kind of layer that can be frozen."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, train):
        for name in ("stem", "stage1", "stage2"):
            x = Conv(8, (3, 3), 2, name=f"{name}_conv", dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(name=f"{name}_norm", dtype=self.dtype)(x, train=train))
        return Dense(10, name="head", dtype=self.dtype)(x.mean((1, 2))).astype(np.float32)


def plan_of(config):
    return make_plan(config, CustomParts(model=Normalized()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit(dataclasses.replace(LENET, workdir=str(tmp_path_factory.mktemp("trained"))))


@pytest.fixture(scope="module")
def backbone(trained, tmp_path_factory):
    """A file with the parameters of the run, and a classifier of seven classes."""
    params = jax.device_get(trained.state.params)
    params["head"] = {"kernel": params["head"]["kernel"][:, :7], "bias": params["head"]["bias"][:7]}
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    weights.save(path, "lenet5", {"params": params}, image_shape=(28, 28, 1))
    return path


def flat(state):
    return flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")


def bits(array):
    return np.asarray(array).tobytes()


def test_a_linear_probe_on_a_trained_backbone_beats_one_on_random_weights(backbone, tmp_path):
    on_trained = fit(dataclasses.replace(PROBE, init_from=str(backbone), workdir=str(tmp_path / "trained")))
    on_random = fit(dataclasses.replace(PROBE, workdir=str(tmp_path / "random")))
    assert on_trained.test_accuracy > on_random.test_accuracy + 0.1
    before = weights.read_arrays(backbone)
    for name, after in flat(on_trained.state).items():
        if not name.startswith("params/head"):
            assert bits(before[name].read()) == bits(after), name
    # Neither needs the file again.
    assert evaluate(on_trained.workdir)["test_accuracy"] == on_trained.test_accuracy
    assert load_run(on_trained.workdir).step == PROBE.steps


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "ema_decay": 0.9,
            "dtype": "float16",
            "parallel": "jit",
            "accumulate": 1,
            "optimizer": OptimizerConfig(name="muon", decay_all=True, clip_norm=0.1),
        },
    ],
    ids=["momentum", "muon-float16-ema-jit"],
)
def test_only_what_is_not_frozen_changes(options, tmp_path):
    config = dataclasses.replace(NORMALIZED, freeze="stem|stage1", workdir=str(tmp_path), **options)
    plan = plan_of(config)
    start = plan.initial_state()
    # -0 is what an update of 0 would not keep, and large values are what a mean would round.
    params = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(-0.0), start.params)
    statistics = jax.tree.map(lambda x: x + 1 / 3, start.batch_stats)
    learned = {"params": params, "batch_stats": statistics}
    state = dataclasses.replace(start, **learned, ema=learned if start.ema else {})
    batch = plan.parallel.place_batch(next(plan.pipeline.batches(0)))
    before = jax.device_get(state)
    step = plan.compile_train_step()
    after, _ = step(plan.parallel.place_state(before), batch)
    after = jax.device_get(plan.parallel.fetch_state(after))
    for old, new in [(flat(before), flat(after))] + (
        [(flatten_dict(before.ema, sep="/"), flatten_dict(after.ema, sep="/"))] if start.ema else []
    ):
        for name in old:
            frozen = name.partition("/")[2].startswith(("stem", "stage1"))
            assert (bits(old[name]) == bits(new[name])) == frozen, name


def test_frozen_batch_normalization_uses_its_running_statistics():
    """With all but the head frozen, the training step computes the logits of a test."""
    plan = plan_of(dataclasses.replace(NORMALIZED, freeze="(?!head)", optimizer=OptimizerConfig(learning_rate=1e-9)))
    batch = next(plan.pipeline.batches(0))
    state = plan.parallel.place_state(jax.device_get(plan.initial_state()))
    tested = plan.compile_eval_step()(state, plan.parallel.place_batch((batch, np.ones(8, bool))))
    _, trained = plan.compile_train_step()(state, plan.parallel.place_batch(batch))
    np.testing.assert_allclose(trained["loss"], tested["loss"], rtol=1e-5)


def test_frozen_parts_take_no_memory_of_the_optimizer():
    plan = plan_of(dataclasses.replace(NORMALIZED, freeze="stem|stage", optimizer=OptimizerConfig(name="adam")))
    size = sum(x.size for x in jax.tree.leaves(plan.template.opt_state))
    head = sum(x.size for x in jax.tree.leaves(plan.template.params["head"]))
    assert 2 * head <= size <= 2 * head + 8  # two moments, and counters


def test_scales_of_the_learning_rate_go_by_path_and_the_first_counts():
    scales = ("head/bias=0.25", "head|C1=2", "F=0.5")
    plain, scaled = (
        make_plan(dataclasses.replace(LENET, optimizer=OptimizerConfig(name="adamw", learning_rate_scales=given)))
        for given in ((), scales)
    )
    params = plain.initial_state().params
    gradients = jax.tree.map(np.ones_like, params)
    one, other = (
        flatten_dict(plan.optimizer.update(gradients, plan.optimizer.init(params), params)[0], sep="/")
        for plan in (plain, scaled)
    )
    assert {"head/bias", "head/kernel", "C1/kernel", "C3/kernel", "F6/bias"} < set(one)
    for name, update in one.items():
        factor = {"head/bias": 0.25, "head/kernel": 2, "C1/kernel": 2, "C1/bias": 2}.get(
            name, 0.5 if name.startswith("F") else 1
        )
        np.testing.assert_allclose(other[name], factor * update, rtol=1e-6)


@pytest.mark.slow
def test_a_fine_tuned_run_goes_on_to_the_same_bits_and_only_from_the_same_file(backbone, tmp_path):
    config = dataclasses.replace(
        PROBE, steps=6, freeze="C", init_from=str(backbone), workdir=str(tmp_path / "whole"), checkpoint_every=3
    )
    whole = fit(config)
    parts = dataclasses.replace(config, workdir=str(tmp_path / "parts"))
    fit(parts)
    (tmp_path / "parts" / "result.json").unlink()
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "6")
    continued = fit(parts)
    assert json.loads((whole.workdir / "result.json").read_text())["state_sha256"] == continued.values["state_sha256"]

    recorded = json.loads((whole.workdir / "config.json").read_text())["init_from"]
    assert recorded.startswith("backbone.safetensors sha256:")
    other = tmp_path / "backbone.safetensors"
    changed = bytearray(backbone.read_bytes())
    changed[-1] ^= 1
    other.write_bytes(changed)
    with pytest.raises(UsageError, match="init_from"):
        fit(dataclasses.replace(config, init_from=str(other)))
    with pytest.raises(UsageError, match="give the path of the file"):
        fit(dataclasses.replace(config, init_from=recorded, workdir=str(tmp_path / "new")))


def test_another_run_can_be_started_from(trained, tmp_path):
    plan = make_plan(dataclasses.replace(LENET, init_from=str(trained.workdir)))
    there, here = load_run(trained.workdir).variables, plan.initial_state()
    jax.tree.map(np.testing.assert_array_equal, there["params"], here.params)
    assert plan.notes() == [f"starting from {trained.workdir}"]


def test_a_classifier_of_other_classes_is_left_out_and_said_to_be(backbone):
    plan = make_plan(dataclasses.replace(LENET, init_from=str(backbone)))
    fresh, state = make_plan(LENET).initial_state(), plan.initial_state()
    note = "which has 7 classes: the classifier for 10 classes starts at random"
    assert plan.notes() == [f"starting from {backbone}, {note}"]
    np.testing.assert_array_equal(state.params["head"]["kernel"], fresh.params["head"]["kernel"])
    assert not np.array_equal(state.params["F6"]["kernel"], fresh.params["F6"]["kernel"])


class Unread(TfdsDataset):
    """A dataset whose examples are of zeros."""

    def load(self, split, indices, *_, **__):
        return {"image": np.zeros((len(indices), *self.image_shape), np.uint8), "label": np.zeros(len(indices), int)}


def test_torchvisions_file_for_other_classes_is_taken_but_for_its_classifier(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    model = create_model("resnet18", 1000)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=True))
    variables = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), shapes)
    path = tmp_path / "resnet18.safetensors"
    weights.save(path, "resnet18", variables, to="torchvision")
    classes, counts = ("a", "b", "c"), {"train": 100, "test": 10}
    dataset = Unread("cifar10", (32, 32, 3), classes, counts, directory=tmp_path)
    monkeypatch.setattr(plan_module, "open_dataset", lambda *_, **__: dataset)
    config = Config(model="resnet18", init_from=str(path), freeze="stem|stage1")
    plan = make_plan(config)
    first, *_ = notes = plan.notes()
    assert first == f"starting from {path}, which has 1000 classes: the classifier for 3 classes starts at random"
    assert notes[1] == "frozen: 157,504 of 11,178,051 parameters"  # 9,536 of the stem, and two blocks of 73,984
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    flags = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
    assert notes[2:] == [
        f"the weights of {path} were trained on images with another normalization. To use it, give {flags}"
    ]
    assert make_plan(dataclasses.replace(config, **imagenet)).notes() == notes[:2]
    ours = weights.to_ours(variables)
    assert set(ours) - set(plan.initial.arrays) == {"params/head/kernel", "params/head/bias"}
    for name, array in plan.initial.arrays.items():
        np.testing.assert_array_equal(array, ours[name])


def test_weights_of_color_images_start_a_run_on_gray_ones(tmp_path):
    model = create_model("lenet5")
    variables = jax.device_get(model.init(jax.random.key(0), np.zeros((1, 28, 28, 3), np.float32), train=False))
    path = tmp_path / "color.safetensors"
    weights.save(path, "lenet5", variables)
    with pytest.raises(UsageError, match=r"init_from .* for images of 3 channels, not 1\. .* --init-channels sum"):
        make_plan(dataclasses.replace(LENET, init_from=str(path)))
    plan = make_plan(dataclasses.replace(LENET, init_from=str(path), init_channels="sum"))
    summed = variables["params"]["C1"]["kernel"].astype(np.float64).sum(2, keepdims=True).astype(np.float32)
    np.testing.assert_array_equal(plan.initial.arrays["params/C1/kernel"], summed)
    (note,) = plan.notes()
    assert note.startswith(f"starting from {path}; its first kernel is summed over 3 input channels")
    with pytest.raises(UsageError, match="init_channels applies only to initial weights"):
        make_plan(dataclasses.replace(LENET, init_channels="sum"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--freeze", "con("], "'con(' is not a regular expression"),
        (["--freeze", "hed"], "did you mean 'head'?"),
        (["--freeze", "stage1"], "matches no parameter"),
        (["--freeze", ""], "leaves nothing to train"),
        (["--optimizer.learning-rate-scales", "conv"], "EXPRESSION=FACTOR"),
        (["--optimizer.learning-rate-scales", "C1=0"], "use freeze"),
        (["--optimizer.learning-rate-scales", "haed=2"], "did you mean 'head'?"),
        (["--init-from", "nowhere.safetensors"], "does not exist"),
        (["--init-from", "backbone.safetensors", "--model", "alexnet"], "do not fit alexnet"),
        (["--init-from", "."], "config.json does not exist"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(flags, said, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backbone.safetensors").write_bytes(backbone.read_bytes())
    image_size = ["--image-size", "64"] if "alexnet" in flags else []
    assert cli.main(["train", "--workdir", "run", *flags, *image_size]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]


def test_a_run_of_a_model_of_the_users_can_be_started_from_without_the_model(tmp_path):
    first = fit(dataclasses.replace(LENET, steps=1, workdir=str(tmp_path / "first")), model=create_model("lenet5", 10))
    assert first.config.model.startswith("custom:")
    plan = make_plan(dataclasses.replace(LENET, init_from=str(first.workdir)))
    for name in ("C1", "F6"):
        kernel = plan.initial_state().params[name]["kernel"]
        np.testing.assert_array_equal(kernel, first.state.params[name]["kernel"])
    checkpoint = next(
        path for path in (first.workdir / "checkpoints" / "1" / "state").rglob("*") if path.stat().st_size > 9999
    )
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(UsageError, match=r"checkpoint .*/1 is damaged"):
        make_plan(dataclasses.replace(LENET, init_from=str(first.workdir)))


class Wrapped(nn.Module):
    """A network that contains one or more models, such as that of a contrastive task."""

    models: dict[str, nn.Module]

    @nn.compact
    def __call__(self, x, *, train):
        return Dense(10, name="projection")(sum(model(x, train=train) for model in self.models.values()))


def test_a_model_inside_a_larger_network_is_found(tmp_path):
    def run(name, **models):
        return fit(dataclasses.replace(config, workdir=str(tmp_path / name)), model=Wrapped(models)).workdir

    config = dataclasses.replace(NORMALIZED, steps=1)
    one = run("one", encoder=Normalized())
    plan = plan_of(dataclasses.replace(config, init_from=str(one)))
    assert plan.initial.note == (
        f"starting from 'models_encoder' in the network of {one}, which has no classifier: the classifier for 10 "
        "classes starts at random"
    )
    stored = flatten_dict(load_run(one, model=Wrapped({"encoder": Normalized()})).variables, sep="/")
    started = flat(plan.initial_state())
    assert any(name.startswith("batch_stats/") for name in started)
    for name, array in started.items():
        same = bits(array) == bits(stored[name.replace("/", "/models_encoder/", 1)])
        assert same == ("/head/" not in name), name
    two = run("two", online=Normalized(), target=Normalized())
    with pytest.raises(UsageError, match="names in the file do not match") as raised:  # nothing says which one is meant
        plan_of(dataclasses.replace(config, init_from=str(two)))
    assert "\n" not in str(raised.value)


def test_a_module_that_is_more_or_less_than_the_model_is_not_taken():
    model, shape = Normalized(), (28, 28, 3)
    stored = weights.as_stored(model.init(jax.random.key(0), np.ones((1, *shape), np.float32), train=True))
    nested = {name.replace("/", "/net/inner/", 1): array for name, array in stored.items()}
    arrays, prefix = weights.without_prefix(nested, model, shape)
    assert prefix == "net/inner"
    assert arrays == {name: array for name, array in stored.items() if "/head/" not in name}
    some = nested["params/net/inner/stem_conv/kernel"]
    for other in (
        {**nested, "params/net/inner/stage3_conv/kernel": some},
        {name: array for name, array in nested.items() if "stage2_norm" not in name},
        {**nested, **stored},
        {},
    ):
        assert weights.without_prefix(other, model, shape) == (other, None)
