"""A trained network, frozen: the same predictions and metrics, where its task is classification."""

import dataclasses

import numpy as np
import pytest

from jaxcnn.cli import main
from jaxcnn.data import open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.train import Classification, load_run
from jaxcnn.train.evaluation import evaluate_trained
from jaxcnn.train.runtime.trained import FrozenModel


class Scaled(Classification):
    def scores(self, model, variables, batch):
        return 2 * super().scores(model, variables, batch)


def test_predictions_and_metrics_are_the_same(lenet_run):
    trained, data = load_run(lenet_run.workdir), open_dataset("fashion_mnist_mini")
    frozen = trained.frozen()
    assert isinstance(frozen.model, FrozenModel)
    assert frozen.variables == {}
    assert frozen.frozen() is frozen
    images = data.read("test")[0][:7]
    np.testing.assert_allclose(frozen.predict(images), trained.predict(images), atol=1e-5)
    ours, theirs = evaluate_trained(frozen, data), evaluate_trained(trained, data)
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-5)


@pytest.mark.parametrize("tta", ["flip", "flip_shift"])
def test_the_views_of_an_image_are_averaged(lenet_run, tta):
    trained = load_run(lenet_run.workdir)
    trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, tta=tta))
    images = open_dataset("fashion_mnist_mini").read("test")[0][:3]
    np.testing.assert_allclose(trained.frozen().logits(images), trained.logits(images), atol=1e-4)


def test_other_tasks_are_refused_in_one_line(lenet_run):
    trained = dataclasses.replace(load_run(lenet_run.workdir), task=Scaled())
    assert not trained.can_be_frozen
    with pytest.raises(UsageError, match="cannot freeze a network of the task Scaled") as error:
        trained.frozen()
    assert "\n" not in str(error.value)


def test_eval_takes_frozen(lenet_run, capsys):
    assert not main(["eval", "--workdir", str(lenet_run.workdir), "--frozen"])
    ours = capsys.readouterr().out
    assert not main(["eval", "--workdir", str(lenet_run.workdir)])
    assert ours == capsys.readouterr().out
