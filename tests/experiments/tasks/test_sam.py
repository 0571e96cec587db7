"""SAM: algorithm 1 of the paper, on any number of devices, with freezing, loss scales and micro-batches."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.tasks.sam import sam
from jaxcnn.layers import BatchNorm, Conv, Dense
from jaxcnn.train import Classification, accumulated, create_state, make_parallel, make_train_step, plain, scaled
from jaxcnn.train.gradient import BatchLoss
from jaxcnn.train.optim.freezing import Freezing
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale, loss_scale

SHAPE = (6, 6, 1)
TASK = Classification(normalize=lambda x: x / 128.0 - 1.0)


class Small(nn.Module):
    normalized: bool = True

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(4, 3, name="conv")(x)
        x = nn.tanh(BatchNorm(name="norm")(x, train) if self.normalized else x)
        return Dense(3, name="head")(x.reshape(len(x), -1))


def batch_of(count=16, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count).astype(np.int32)
    return {"image": random.integers(0, 256, (count, *SHAPE), np.uint8), "label": labels}


def gradient_in_step(gradient, *, strategy="jit", devices=1, batch=None, optimizer=None, model=None):
    """Return the gradient that the training step uses, by a step of length 1, and the batch statistics after it."""
    model, optimizer = model or Small(), optimizer or optax.sgd(1.0)
    parallel = make_parallel(strategy, jax.devices()[:devices])
    step = parallel.compile(make_train_step(model, optimizer, TASK, gradient=gradient), donate_state=False)
    before = create_state(model, optimizer, SHAPE, seed=0)
    after, sums = step(parallel.place_state(before), parallel.place_batch(batch or batch_of()))
    moved = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b), before.params, after.params)
    return moved, jax.device_get(after.batch_stats), jax.device_get(sums)


def assert_close(a, b, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


def test_it_is_algorithm_1():
    matrix = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)

    def loss(params, *_):
        return 0.5 * params["w"] @ matrix @ params["w"], "aux"

    params = {"w": jnp.array([1.0, -2.0])}
    batch_loss = BatchLoss(lambda *args: (loss(*args)[0], {"seen": args[0]["w"]}), None, None, None, jnp.int32(0))
    gradient, aux = sam(batch_loss, params, radius=0.5)
    g = matrix @ np.array([1.0, -2.0])
    nearby = np.array([1.0, -2.0]) + 0.5 * g / np.linalg.norm(g)
    np.testing.assert_allclose(gradient["w"], matrix @ nearby, rtol=1e-6)
    np.testing.assert_array_equal(aux["seen"], params["w"])


def test_at_a_stationary_point_the_gradient_is_zero():
    batch_loss = BatchLoss(lambda params, *_: ((params["w"] ** 2).sum(), ()), None, None, None, jnp.int32(0))
    np.testing.assert_array_equal(sam(batch_loss, {"w": jnp.zeros(3)})[0]["w"], np.zeros(3))


@pytest.fixture(scope="module")
def on_one_device():
    return gradient_in_step(partial(sam, radius=0.5))


@pytest.mark.parametrize("strategy", ["pmap", "jit", "shard_map"])
def test_the_gradient_does_not_depend_on_the_number_of_devices(strategy, on_one_device):
    gradient, batch_stats, sums = gradient_in_step(partial(sam, radius=0.5), strategy=strategy, devices=8)
    assert_close(gradient, on_one_device[0])
    assert_close(batch_stats, on_one_device[1])
    np.testing.assert_allclose(sums["loss"], on_one_device[2]["loss"], rtol=1e-5)


def test_it_differs_from_the_plain_gradient_but_statistics_and_metrics_are_those_of_the_first_pass(on_one_device):
    gradient, batch_stats, sums = gradient_in_step(plain)
    assert largest_difference(gradient, on_one_device[0]) > 1e-3
    assert_close(batch_stats, on_one_device[1], atol=1e-7)
    np.testing.assert_allclose(sums["loss"], on_one_device[2]["loss"], rtol=1e-6)


def test_frozen_parameters_are_not_perturbed():
    freezing, radius = Freezing("conv|norm"), 0.5
    optimizer = freezing.optimizer(optax.sgd(1.0))
    gradient, batch_stats, _ = gradient_in_step(freezing.gradient(partial(sam, radius=radius)), optimizer=optimizer)
    assert not np.abs(gradient["conv"]["kernel"]).any()
    # By hand: the features are fixed, so that SAM is that of a linear model.
    model, batch = Small(), batch_of()
    state = create_state(model, optax.sgd(1.0), SHAPE, seed=0)

    def loss(head):
        variables = {"params": {**state.params, "head": head}, "batch_stats": state.batch_stats}
        logits = model.apply(variables, TASK.normalize(batch["image"]), train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    first = jax.grad(loss)(state.params["head"])
    scale = radius / optax.tree.norm(first)
    expected = jax.grad(loss)(jax.tree.map(lambda p, g: p + scale * g, state.params["head"], first))
    assert_close(gradient["head"], expected)
    assert_close(batch_stats, state.batch_stats, atol=0)


def test_a_loss_scale_does_not_change_the_gradient(on_one_device):
    optimizer = dynamic_loss_scale(optax.sgd(1.0))
    gradient, _, _ = gradient_in_step(scaled(loss_scale, partial(sam, radius=0.5)), optimizer=optimizer)
    assert_close(gradient, on_one_device[0])


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_overflow_of_the_scaled_loss_is_seen(bad):
    def function(params, *_):
        return (params["w"] * bad).sum(), ()

    gradient, _ = sam(BatchLoss(function, None, None, None, jnp.int32(0)), {"w": jnp.ones(2)})
    assert not np.isfinite(gradient["w"]).any()


def test_accumulated_gradients_are_the_mean_of_those_of_the_micro_batches():
    model, radius = Small(normalized=False), 0.5
    gradient, _, _ = gradient_in_step(accumulated(4, partial(sam, radius=radius)), model=model)
    # A micro-batch takes every fourth example.
    parts = [{name: x[first::4] for name, x in batch_of().items()} for first in range(4)]
    of_parts = [gradient_in_step(partial(sam, radius=radius), model=model, batch=part)[0] for part in parts]
    assert_close(gradient, jax.tree.map(lambda *g: np.mean(g, axis=0), *of_parts))
    assert largest_difference(gradient, gradient_in_step(partial(sam, radius=radius), model=model)[0]) > 1e-4
