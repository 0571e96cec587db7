"""Mistakes in tasks, callbacks, metrics and settings are one line, and are found before anything is written."""

from pathlib import Path

import numpy as np
import pytest

from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Callback, Config, Task, fit

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
LABELS = np.arange(24) % 3
DATA = from_arrays((IMAGES, LABELS), (IMAGES[:11], LABELS[:11]))
MODEL = Sequential([Flatten(), Dense(3)])


def config(folder, **changes):
    return Config(**{"workdir": str(folder / "run"), "batch_size": 8, "steps": 6, "progress": False, **changes})


def refusal(call):
    """Return the message of the mistake, which is one line."""
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


class Regression(Task):
    """The sum of the outputs."""

    def loss(self, model, variables, batch, rngs):
        outputs = model.apply(variables, batch["image"] / 255.0, train=True)
        return self.reduced(outputs), {}, {"loss": outputs.sum(-1)}

    def reduced(self, outputs):
        return outputs.mean()

    def evaluate(self, model, variables, batch):
        return {"loss": model.apply(variables, batch["image"] / 255.0, train=False).sum(-1)}


class LossOfEach(Regression):
    def reduced(self, outputs):
        return outputs.sum(-1)


class MeanMetric(Regression):
    def evaluate(self, model, variables, batch):
        return {"error": super().evaluate(model, variables, batch)["loss"].mean()}


class MeanTrainingMetric(Regression):
    def loss(self, model, variables, batch, rngs):
        loss, updates, metrics = super().loss(model, variables, batch, rngs)
        return loss, updates, {"loss": metrics["loss"], "size": metrics["loss"].mean()}


class OtherLength(Regression):
    def evaluate(self, model, variables, batch):
        return {"loss": super().evaluate(model, variables, batch)["loss"][:1]}


class NoMetrics(Regression):
    def evaluate(self, model, variables, batch):
        return {}


class NoTuple(Regression):
    def loss(self, model, variables, batch, rngs):
        return super().loss(model, variables, batch, rngs)[0]


class WithoutEvaluate(Regression):
    evaluate = Task.evaluate


TASKS = {
    LossOfEach: "loss of task LossOfEach must be a scalar, got shape (2,)",
    MeanMetric: "'error'",
    MeanTrainingMetric: "'size'",
    OtherLength: "'loss'",
    NoMetrics: "metric",
    NoTuple: "loss of task NoTuple must return (scalar, updates, metrics)",
    WithoutEvaluate: "task WithoutEvaluate has no method evaluate",
}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_a_wrong_task_is_refused_before_anything_is_written(task, tmp_path):
    said = refusal(lambda: fit(config(tmp_path), data=DATA, task=task(), model=MODEL))
    assert TASKS[task] in said
    assert not (tmp_path / "run").exists()


def test_a_correct_task_is_trained(tmp_path):
    result = fit(config(tmp_path), data=DATA, task=Regression(), model=MODEL)
    assert result.test_examples == 11


class Misspelled(Callback):
    def on_steps(self, run):
        """Do nothing."""


PARTS = {
    "callback without a method": (
        {"callbacks": [object()]},
        "callback object has no callback method",
    ),
    "misspelled method": ({"callbacks": [Misspelled()]}, "on_steps. Did you mean on_step?"),
    "callback that is a class": ({"callbacks": [Misspelled]}, "Pass an object: Misspelled()"),
    "callback without a list": ({"callbacks": Misspelled()}, "callbacks=[...]"),
    "metric without examples": ({"metrics": {"bias": lambda logits, labels: logits.mean()}}, "'bias'"),
    "metric that is no function": ({"metrics": {"bias": 3}}, "int"),
    "metric with the name of another": ({"metrics": {"loss": lambda logits, labels: logits[:, 0]}}, "'loss'"),
    "metrics without names": ({"metrics": [lambda logits, labels: logits[:, 0]]}, "metrics"),
    "loss without examples": (
        {"loss": lambda logits, labels: logits.mean()},
        "loss must return an array of shape (2,)",
    ),
    "model of another size": ({"model": Sequential([Flatten(), Dense(7)])}, "(2, 7)"),
    "arrays in place of a dataset": ({"data": (IMAGES, LABELS)}, "from_arrays"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_part_is_refused_before_anything_is_written(part, tmp_path):
    given, says = PARTS[part]
    said = refusal(lambda: fit(config(tmp_path), **{"data": DATA, "model": MODEL, **given}))
    assert says in said
    assert not (tmp_path / "run").exists()


SETTINGS = {
    "unknown metric": ({"metrics": ("topp5",)}, "unknown metric 'topp5'; did you mean 'top5'?"),
    "metric of more classes": ({"metrics": ("top7",)}, "7"),
    "metrics that are one text": ({"metrics": "top2"}, "metrics"),
    "unknown monitor": ({"monitor": "acuracy"}, "'acuracy'; did you mean 'accuracy'?"),
    "unknown sampling": ({"sampling": "balance"}, "'balance'"),
    "unknown split": ({"validation": "vaildation"}, "'vaildation'"),
    "validation of nothing": ({"validation": 0.0}, "validation"),
    "validation of everything": ({"validation": 1.5}, "1.5"),
    "data and dataset": ({"dataset": "mnist"}, "data and the dataset 'mnist' are mutually exclusive"),
    "profile beyond the end": ({"profile": "10:20"}, "10:20 is beyond the 6 steps"),
    "size of a batch": ({"batch_size": 32}, "batch_size 32 is more than the 24 training images"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_wrong_setting_is_refused_before_anything_is_written(setting, tmp_path):
    changes, says = SETTINGS[setting]
    said = refusal(lambda: fit(config(tmp_path, **changes), data=DATA, model=MODEL))
    assert says in said
    assert not (tmp_path / "run").exists()


def test_a_split_that_the_run_does_not_have_is_refused_within_a_callback(tmp_path):
    class Evaluating(Callback):
        def __init__(self, split):
            self.split = split

        def on_epoch(self, run):
            run.evaluate(self.split)

    for split, says in (
        ("tset", "unknown split 'tset'; did you mean 'test'?"),
        ("validation", "no validation examples"),
    ):
        folder = Path(tmp_path, split)
        call = lambda split=split, folder=folder: fit(  # noqa: E731
            config(folder), data=DATA, model=MODEL, callbacks=[Evaluating(split)]
        )
        assert says in refusal(call)
