"""Batches: every example once an epoch, in an order that the seed and the step determine."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data.pipeline import batch_indices, evaluation_batches, training_batches
from jaxcnn.errors import UsageError


@settings(deadline=None)
@given(examples=st.integers(1, 60), batch_size=st.integers(1, 60), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_each_example_comes_once_an_epoch(examples, batch_size, seed, epochs):
    steps = -(-epochs * examples // batch_size)
    stream = np.concatenate(
        [batch_indices(step, examples=examples, batch_size=batch_size, seed=seed) for step in range(steps)]
    )
    for epoch in range(epochs):
        assert sorted(stream[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


@given(step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_seed_and_step(step):
    indices = [batch_indices(step, examples=50, batch_size=7, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(indices[0], indices[1])
    assert len(indices[0]) == 7


def test_seeds_and_epochs_have_different_orders():
    orders = [batch_indices(epoch, examples=50, batch_size=50, seed=seed) for seed in (0, 1) for epoch in (0, 1)]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)


def test_training_goes_on_from_any_step():
    images, labels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1), np.arange(20, dtype=np.int32)
    straight = list(itertools.islice(training_batches(images, labels, 6, seed=1), 10))
    later = list(itertools.islice(training_batches(images, labels, 6, seed=1, first_step=4), 6))
    for a, b in zip(straight[4:], later, strict=True):
        np.testing.assert_array_equal(a["images"], b["images"])
        np.testing.assert_array_equal(a["images"].ravel(), a["labels"])  # an image keeps its label


@pytest.mark.parametrize("batch_size", [0, -1, 21])
def test_an_impossible_batch_size_is_refused(batch_size):
    images, labels = np.zeros((20, 1, 1, 1), np.uint8), np.zeros(20, np.int32)
    with pytest.raises(UsageError, match=f"batch_size must be from 1 to the 20 training images, got {batch_size}"):
        next(training_batches(images, labels, batch_size, seed=0))


@given(examples=st.integers(1, 40), batch_size=st.integers(1, 40))
def test_evaluation_covers_every_example_in_full_batches(examples, batch_size):
    images = np.arange(1, examples + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    batches = list(evaluation_batches(images, np.arange(examples), batch_size))
    assert all(len(batch["images"]) == len(batch["labels"]) == batch_size for batch in batches)
    seen = np.concatenate([batch["labels"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(seen, np.arange(examples))
