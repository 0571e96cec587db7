"""Each worked task is a run like any other: trained, evaluated, resumed and opened again, on eight devices."""

import dataclasses
import functools
import json
import math
from typing import Any

import flax.linen as nn
import numpy as np
import optax
import pytest

from experiments.tasks.contrastive import Contrastive, Projected
from experiments.tasks.distillation import Distillation
from experiments.tasks.multi_head import MultiHead, MultiHeadModel
from experiments.tasks.sam import sam
from experiments.tasks.segmentation import FullyConvolutional, Segmentation
from jaxcnn.data import from_arrays, from_source
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout
from jaxcnn.train import Callback, Classification, Config, OptimizerConfig, create_state, evaluate, fit, load_run
from jaxcnn.visualize import grad_cam, grad_cam_figure

# 100 examples in batches of 16: an epoch ends within a batch. 42 test examples do not fill a batch over 8 devices.
CONFIG = Config(batch_size=16, steps=8, checkpoint_every=2, progress=False, optimizer=OptimizerConfig("adam", 1e-2))


class Small(nn.Module):
    """Parameters, batch statistics and dropout."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(BatchNorm(name="norm")(Conv(4, 3, strides=2, name="conv")(x), train))
        x = Dropout(0.1)(x.reshape(len(x), -1), train)
        return Dense(self.num_classes, name="head")(x)


def arrays(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count).astype(np.int32)
    images = random.integers(0, 100, (count, 8, 8, 1)) + 70 * labels[:, None, None, None]
    masks = np.where(images[..., 0] > 90, labels[:, None, None], 255)
    return {
        "image": images.astype(np.uint8),
        "label": labels,
        "mask": masks.astype(np.uint8),
        "group": labels // 2,
        "ink": images.mean((1, 2, 3), dtype=np.float32) / 255,
    }


TRAIN, TEST = arrays(100, seed=0), arrays(42, seed=1)
DATA = from_arrays(TRAIN, TEST)


@dataclasses.dataclass(frozen=True)
class Case:
    """What `fit` gets beside the configuration and the data, and the metrics of the evaluation."""

    model: nn.Module
    task: Any
    metrics: set[str]
    gradient: Any = None

    @property
    def parts(self):
        return {"model": self.model, "task": self.task}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    fit(dataclasses.replace(CONFIG, workdir=str(folder), augment=()), data=DATA, model=Small())
    teacher = load_run(folder, model=Small())
    heads = MultiHeadModel(Small(5), (("label", 3), ("group", 2), ("ink", 1)))
    return {
        "contrastive": Case(Projected(Small(8), 6), Contrastive(), {"similarity", "effective_rank"}),
        "segmentation": Case(
            FullyConvolutional(3, width=2), Segmentation(3), {"loss", "pixel_accuracy", "mean_iou", "iou"}
        ),
        "distillation": Case(Small(), Distillation(teacher=teacher), {"loss", "accuracy"}),
        "multi_head": Case(
            heads,
            MultiHead({"label": 1.0, "group": 1.0}, {"ink": 1.0}, monitor="group_accuracy"),
            {"loss", "label_accuracy", "group_accuracy", "ink_error"},
        ),
        "sam": Case(Small(), Classification(), {"loss", "accuracy"}, functools.partial(sam, radius=0.1)),
    }


NAMES = ("contrastive", "segmentation", "distillation", "multi_head", "sam")


@pytest.fixture(scope="module")
def run_of(cases, tmp_path_factory):
    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        return train(cases[name], folder)

    return run


def train(case, folder, data=DATA, callbacks=(), **fields):
    config = dataclasses.replace(CONFIG, workdir=str(folder), **fields)
    return fit(config, data=data, gradient=case.gradient, callbacks=callbacks, **case.parts)


@pytest.mark.parametrize("name", NAMES)
def test_every_test_example_is_evaluated_and_the_loss_is_recorded(name, cases, run_of):
    result = run_of(name)
    assert result.test_examples == 42
    assert set(result.metrics) == cases[name].metrics
    assert all(math.isfinite(x) for value in result.metrics.values() for x in np.atleast_1d(value))
    rows = [json.loads(line) for line in (result.workdir / "metrics.jsonl").read_text().splitlines()]
    assert len([row["loss"] for row in rows if row["split"] == "train"]) == 8
    assert result.values["monitor"] in cases[name].metrics


class FailAt(Callback):
    """Raise an error after a step."""

    def __init__(self, step):
        self.every = step

    def on_step(self, run):
        raise ConnectionError("the machine is gone")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_fails_resumes_to_the_same_bits(name, cases, run_of, tmp_path):
    with pytest.raises(ConnectionError):
        train(cases[name], tmp_path, callbacks=[FailAt(5)])
    resumed, expected = train(cases[name], tmp_path), run_of(name)
    assert resumed.values["state_sha256"] == expected.values["state_sha256"]
    assert resumed.metrics == expected.metrics


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_opens_the_run_with_its_task_and_gives_the_same_metrics(name, cases, run_of):
    result = run_of(name)
    values = evaluate(result.workdir, data=DATA, **cases[name].parts)
    assert values["test_examples"] == 42
    for metric, value in result.metrics.items():
        np.testing.assert_allclose(values["metrics"][metric], value, rtol=1e-5)


@pytest.mark.parametrize("name", ["distillation", "multi_head", "sam"])
def test_tasks_with_class_scores_predict(name, cases, run_of):
    trained = load_run(run_of(name).workdir, **cases[name].parts)
    probabilities = trained.predict(TEST["image"])
    np.testing.assert_allclose(probabilities.sum(-1), np.ones(42), rtol=1e-5)
    metrics = run_of(name).metrics
    accuracy = metrics.get("accuracy", metrics.get("label_accuracy"))
    assert (probabilities.argmax(-1) == TEST["label"]).mean() == pytest.approx(accuracy, abs=1e-6)


def test_pictures_explain_the_class_scores_of_a_task(cases, run_of):
    trained = load_run(run_of("multi_head").workdir, **cases["multi_head"].parts)
    heat = grad_cam(trained, TEST["image"][0], 1, "backbone/conv")
    assert heat.shape == (3, 3)
    assert np.isfinite(heat).all()


@pytest.mark.parametrize("name", ["contrastive", "segmentation"])
def test_tasks_without_class_scores_say_so_in_one_line(name, cases, run_of):
    trained = load_run(run_of(name).workdir, **cases[name].parts)
    with pytest.raises(UsageError, match="has no class scores") as error:
        trained.predict(TEST["image"])
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="has no class scores"):
        grad_cam_figure(trained, TEST["image"][0])


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_run_that_is_opened_without_its_task_says_what_to_pass(name, cases, run_of):
    with pytest.raises(UsageError, match="task=") as error:
        load_run(run_of(name).workdir, model=cases[name].model)
    assert "\n" not in str(error.value)


def test_a_student_is_opened_as_a_classifier_without_its_teacher(cases, run_of):
    with_teacher = load_run(run_of("distillation").workdir, **cases["distillation"].parts)
    without = load_run(run_of("distillation").workdir, model=Small(), task=Classification())
    np.testing.assert_array_equal(with_teacher.predict(TEST["image"]), without.predict(TEST["image"]))


@pytest.mark.slow
def test_random_access_sources_give_the_same_bits_as_arrays(cases, run_of, tmp_path):
    def rows(split):
        return [{name: array[i] for name, array in split.items()} for i in range(len(split["image"]))]

    result = train(cases["segmentation"], tmp_path, data=from_source(rows(TRAIN), rows(TEST)))
    assert result.values["state_sha256"] == run_of("segmentation").values["state_sha256"]


@pytest.mark.parametrize(
    ("name", "metric", "least"), [("segmentation", "pixel_accuracy", 0.8), ("sam", "accuracy", 0.9)]
)
def test_a_task_learns(name, metric, least, cases, tmp_path):
    once = {"steps": 80, "evaluate_every": 80, "checkpoint_every": None}
    assert train(cases[name], tmp_path, **once).metrics[metric] > least


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"freeze": "conv|norm"}, {"accumulate": 2}])
def test_sam_trains_a_part_of_a_network_and_micro_batches(fields, cases, tmp_path):
    after = train(cases["sam"], tmp_path, steps=2, **fields).state.params
    before = create_state(Small(), optax.sgd(1.0), DATA.image_shape, CONFIG.seed).params
    assert np.array_equal(after["conv"]["kernel"], before["conv"]["kernel"]) == ("freeze" in fields)
    assert not np.array_equal(after["head"]["kernel"], before["head"]["kernel"])
