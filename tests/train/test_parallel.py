"""A step means the same however it is spread over devices."""

import functools
from functools import partial

import jax
import numpy as np
import optax
import pytest

from jaxcnn.data import compose, normalize
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.models import create_model
from jaxcnn.train import create_state, make_parallel, make_train_step

BATCH, SHAPE = 64, (8, 8, 3)


def batches(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        images = random.integers(0, 256, (BATCH, *SHAPE), np.uint8)
        yield {"images": images, "labels": random.integers(0, 10, BATCH).astype(np.int32)}


@functools.cache
def train(strategy, devices, *, axis_name="batch", augment=(), steps=10):
    """Parameters and statistics after some steps of SGD with momentum at the same global batch."""
    model = create_model("resnet20_cifar", 10, stage_sizes=(1, 1, 1), norm=partial(BatchNorm, axis_name=axis_name))
    optimizer = optax.sgd(0.05, momentum=0.9)
    parallel = make_parallel(strategy, jax.devices()[:devices])
    step = make_train_step(
        model,
        optimizer,
        augment=compose(augment) if augment else None,
        normalize=partial(normalize, mean=(0.5,) * 3, std=(0.25,) * 3),
        axis_name=parallel.axis_name,
    )
    compiled = parallel.compile(step, donate_state=True)
    state = parallel.place_state(create_state(model, optimizer, SHAPE, seed=0))
    for batch in batches(steps):
        state, sums = compiled(state, parallel.place_batch(batch))
        assert int(sums["examples"]) == BATCH
    return jax.device_get({"params": state.params, "batch_stats": state.batch_stats})


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_eight_devices_learn_what_one_learns(strategy):
    # Gradients that were summed in place of averaged would be 8 times too large and fail here.
    assert largest_difference(train(strategy, 8), train("pmap", 1)) < 1e-6


def test_pmap_and_shard_map_agree_to_the_last_bit():
    assert largest_difference(train("pmap", 8), train("shard_map", 8)) == 0.0


def test_without_synchronised_batch_norm_eight_devices_differ():
    assert largest_difference(train("pmap", 8, axis_name=None), train("pmap", 1)) > 1e-3


def test_augmentation_does_not_depend_on_the_number_of_devices():
    # One step: later ones amplify the last digit, since an activation near 0 passes on one side and not the other.
    augmented = functools.partial(train, augment=("flip", "shift"), steps=1)
    assert largest_difference(augmented("pmap", 8), augmented("pmap", 1)) < 1e-6
    assert largest_difference(augmented("pmap", 1), train("pmap", 1, steps=1)) > 1e-3


def test_state_is_never_stacked():
    parallel = make_parallel("pmap", jax.devices())
    model = create_model("lenet5", 10)
    state = create_state(model, optax.sgd(0.1), (28, 28, 1), seed=0)
    placed = parallel.place_state(state)
    step = parallel.compile(make_train_step(model, optax.sgd(0.1), axis_name="batch"), donate_state=True)
    batch = {"images": np.zeros((16, 28, 28, 1), np.uint8), "labels": np.zeros(16, np.int32)}
    after, _ = step(placed, parallel.place_batch(batch))
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(after))


def test_the_state_passed_in_is_donated():
    parallel = make_parallel("pmap", jax.devices()[:2])
    model = create_model("lenet5", 10)
    state = create_state(model, optax.sgd(0.1), (28, 28, 1), seed=0)
    placed = parallel.place_state(state)
    step = parallel.compile(make_train_step(model, optax.sgd(0.1), axis_name="batch"), donate_state=True)
    batch = {"images": np.zeros((16, 28, 28, 1), np.uint8), "labels": np.zeros(16, np.int32)}
    step(placed, parallel.place_batch(batch))
    assert all(x.is_deleted() for x in jax.tree.leaves(placed.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_a_batch_that_devices_do_not_divide_is_refused(strategy):
    parallel = make_parallel(strategy, jax.devices()[:8])
    batch = {"images": np.zeros((100, 28, 28, 1), np.uint8), "labels": np.zeros(100, np.int32)}
    with pytest.raises(UsageError, match="batch_size 100 cannot be divided over 8 devices; use 96 or 104"):
        parallel.place_batch(batch)


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'pmap'"):
        make_parallel("pmpa")
