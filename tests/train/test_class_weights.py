"""Weights of classes have a mean of 1 over the training examples."""

import dataclasses

import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Config
from jaxcnn.train.class_weights import label_counts, normalized_weights
from jaxcnn.train.config import from_dict, to_dict
from jaxcnn.train.runtime.plan import make_plan


class Rare:
    """A training set in which class 2 is rare, and class 1 has no examples."""

    name, num_classes, class_names = "rare", 3, ("a", "b", "c")
    train = np.array([0] * 6 + [2] * 2)

    def labels(self, split):
        return {"train": self.train}[split]


class Soft(Rare):
    """A training set with labels that are distributions."""

    train = np.full((8, 3), 1 / 3, np.float32)


def test_labels_are_counted():
    assert label_counts(Rare()).tolist() == [6, 0, 2]


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(UsageError, match="class_weights need one class per image, which dataset 'rare' does not have"):
        normalized_weights("balanced", Soft())


def test_balanced_weights_are_inverse_to_the_counts():
    weights = normalized_weights("balanced", Rare())
    np.testing.assert_allclose(weights, [8 / (2 * 6), 0.0, 8 / (2 * 2)])
    assert np.mean(np.array(weights)[Rare.train]) == pytest.approx(1.0)


def test_given_weights_are_scaled_only():
    weights = normalized_weights((1.0, 5.0, 3.0), Rare())
    np.testing.assert_allclose(weights, np.array([1.0, 5.0, 3.0]) / 1.5)


def test_weights_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match=r"class_weights has 2 weights for 3 classes\. Give one weight per class"):
        normalized_weights((1.0, 2.0), Rare())
    with pytest.raises(UsageError, match="class_weights is 0 for all classes of the training set"):
        normalized_weights((0.0, 1.0, 0.0), Rare())
    for wrong in ("balance", (-1.0, 2.0), (0.0, 0.0), (float("nan"),)):
        with pytest.raises(UsageError, match="class_weights"):
            make_plan(dataclasses.replace(Config(), class_weights=wrong))


@pytest.mark.parametrize("weights", ["balanced", (1.0, 2.5), None])
def test_they_are_recorded(weights):
    config = Config(class_weights=weights)
    assert from_dict(to_dict(config)) == config


def test_balanced_weights_change_nothing_where_classes_are_equal():
    plan = make_plan(Config(class_weights="balanced", steps=1))
    np.testing.assert_allclose(normalized_weights("balanced", plan.dataset), np.ones(10))
    labels = np.arange(10)
    logits = np.random.default_rng(0).normal(size=(10, 10)).astype(np.float32)
    plain = make_plan(Config(steps=1))
    losses = [p.task.train_loss(logits, labels) for p in (plan, plain)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
