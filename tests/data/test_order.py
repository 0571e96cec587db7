"""The order of examples: as in earlier versions, or with each class equally often."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.data import open_dataset, open_pipeline
from jaxcnn.data.order import balanced, batch_indices
from jaxcnn.errors import UsageError

# Of version 0.1: a run that it began is continued with the same batches.
BATCHES_OF_VERSION_0_1 = "f16deae3b9f59198"


def test_batches_are_those_of_earlier_versions():
    pipeline = open_pipeline(open_dataset("fashion_mnist_mini"), 384, seed=3)
    digest = hashlib.sha256()
    for batch in itertools.islice(pipeline.batches(25), 3):
        digest.update(np.ascontiguousarray(batch["image"]).tobytes() + np.asarray(batch["label"]).tobytes())
    for batch, mask in pipeline.evaluation_batches(768):
        digest.update(batch["image"].tobytes() + batch["label"].tobytes() + mask.tobytes())
    assert digest.hexdigest()[:16] == BATCHES_OF_VERSION_0_1


labels_of_any_classes = st.lists(st.sampled_from([0, 1, 3, 4]), min_size=1, max_size=60).map(np.array)


@given(labels=labels_of_any_classes, seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_balanced_epochs_have_each_class_and_each_example_of_a_class_equally_often(labels, seed, epoch):
    order = balanced(labels)(seed, epoch, len(labels))
    assert len(order) == len(labels)
    times = np.bincount(labels[order])[np.unique(labels)]
    assert times.max() - times.min() <= 1
    of_example = np.bincount(order, minlength=len(labels))
    for label in np.unique(labels):
        assert np.ptp(of_example[labels == label]) <= 1


def test_a_balanced_order_depends_on_seed_and_epoch_only():
    labels = np.array([0] * 50 + [1] * 7)
    orders = {(seed, epoch): balanced(labels)(seed, epoch, 57).tolist() for seed in (0, 1) for epoch in (0, 1)}
    for place, order in orders.items():
        assert balanced(labels)(*place, 57).tolist() == order
    assert len({tuple(order) for order in orders.values()}) == 4
    whole = np.concatenate([orders[1, 0], orders[1, 1]])
    arguments = {"examples": 57, "batch_size": 10, "seed": 1, "order": balanced(labels)}
    np.testing.assert_array_equal(np.concatenate([batch_indices(step, **arguments) for step in range(11)]), whole[:110])


@pytest.mark.parametrize("residence", ["memory", "disk"])
def test_a_pipeline_with_balanced_sampling_continues_from_any_step(grey, residence):
    dataset = open_dataset("mnist", grey)

    def take(first_step, count):
        pipeline = open_pipeline(dataset, 10, seed=2, residence=residence, sampling="balanced", workers=2)
        return list(itertools.islice(pipeline.batches(first_step), count))

    straight = take(0, 10)
    counts = np.bincount(np.concatenate([batch["label"] for batch in straight])[:97], minlength=10)
    assert counts.max() - counts.min() <= 1
    for ours, theirs in zip(take(5, 5), straight[5:], strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_an_unknown_sampling_is_refused(grey):
    with pytest.raises(UsageError, match="unknown sampling 'balance'; did you mean 'balanced'"):
        open_pipeline(open_dataset("mnist", grey), 10, sampling="balance")
