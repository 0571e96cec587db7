"""SimCLR: the loss of the paper, over all devices, and a measure of the representation that no batch changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.tasks.contrastive import Contrastive, Projected, encoder, jitter, nt_xent
from jaxcnn.data import Padded
from jaxcnn.layers import BatchNorm, Conv, Dense
from jaxcnn.train import create_state, make_eval_step, make_parallel, make_train_step

SHAPE = (8, 8, 3)


class Small(nn.Module):
    """Smooth, so that the order of a sum changes a gradient by rounding only; the batch statistics are of all views."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.tanh(BatchNorm(name="norm")(Conv(4, 3, strides=2, name="conv")(x), train))
        return Dense(8, name="head")(x.reshape(len(x), -1))


MODEL = Projected(Small(), features=4)
TASK = Contrastive(normalize=lambda x: x / 128.0 - 1.0)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def state_of(optimizer):
    return create_state(MODEL, optimizer, SHAPE, seed=0)


def loss_of_the_paper(pairs, temperature):
    """Equation 1, one pair at a time, in double precision."""
    views = np.asarray(pairs, np.float64).reshape(-1, pairs.shape[-1])
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    losses = []
    for i in range(len(views)):
        j = i + 1 if i % 2 == 0 else i - 1
        of_others = sum(np.exp(views[i] @ views[k] / temperature) for k in range(len(views)) if k != i)
        losses.append(-np.log(np.exp(views[i] @ views[j] / temperature) / of_others))
    return np.reshape(losses, (-1, 2)).mean(axis=1)


def test_the_loss_is_equation_1():
    pairs = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(nt_xent(jnp.array(pairs), 0.5), loss_of_the_paper(pairs, 0.5), rtol=1e-5)


def test_equal_views_of_different_images_have_the_smallest_loss():
    pairs = jnp.repeat(jnp.eye(4)[:, None], 2, axis=1)
    shuffled = jnp.stack([jnp.eye(4), jnp.roll(jnp.eye(4), 1, axis=0)], axis=1)
    assert float(nt_xent(pairs, 0.5).max()) < float(nt_xent(shuffled, 0.5).min())


def test_a_projection_of_length_zero_has_a_finite_gradient():
    assert jnp.isfinite(jax.grad(lambda pairs: nt_xent(pairs, 0.5).mean())(jnp.zeros((2, 2, 3)))).all()


def step_on(strategy, devices):
    """The gradient of one batch, as the change of the parameters by a step of length 1, with the statistics."""
    optimizer = optax.sgd(1.0)
    parallel = make_parallel(strategy, jax.devices()[:devices])
    compiled = parallel.compile(make_train_step(MODEL, optimizer, TASK), donate_state=False)
    before = state_of(optimizer)
    after, sums = compiled(parallel.place_state(before), parallel.place_batch({"image": images(16)}))
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), before.params, after.params)
    return jax.device_get((gradient, after.batch_stats, sums["loss"] / sums["examples"]))


@pytest.fixture(scope="module")
def on_one_device():
    return step_on("pmap", 1)


@pytest.mark.parametrize("strategy", ["pmap", "jit", "shard_map"])
def test_views_of_all_devices_are_compared_and_the_gradient_is_that_of_one_device(strategy, on_one_device):
    (gradient, *rest), (expected, *expected_rest) = step_on(strategy, 8), on_one_device
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), gradient, expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), rest, expected_rest)


def test_the_two_views_of_an_image_differ_and_each_image_has_its_own():
    same = {"image": np.repeat(images(1), 3, axis=0)}
    views = np.asarray(TASK.prepare(jax.random.key(0), same, True)["views"])
    flat = views.reshape(6, -1)
    assert len(np.unique(flat, axis=0)) == 6
    again = np.asarray(TASK.prepare(jax.random.key(0), same, False)["views"])
    np.testing.assert_array_equal(views, again)


def test_jitter_keeps_the_dtype_and_the_range_and_drops_colors():
    image = images(1)[0]
    changed = jax.vmap(lambda key: jitter(key, image, gray=0.5))(jax.random.split(jax.random.key(0), 40))
    assert changed.dtype == jnp.uint8
    are_gray = (changed == changed[..., :1]).all(axis=(1, 2, 3))
    assert 8 < int(are_gray.sum()) < 32
    assert np.abs(np.asarray(changed, float).mean((1, 2, 3)) - image.mean()).max() > 20


def evaluate(batch_size, devices):
    """Summarize 10 images in batches of this size, the last one padded."""
    parallel = make_parallel("pmap", jax.devices()[:devices])
    step = parallel.compile(make_eval_step(MODEL, without_randomness()), donate_state=False)
    state, all_images = parallel.place_state(state_of(optax.sgd(1.0))), images(10)
    parts = []
    for start in range(0, 10, batch_size):
        part = all_images[start : start + batch_size]
        padding = batch_size - len(part)
        batch = {"image": np.pad(part, [(0, padding), (0, 0), (0, 0), (0, 0)])}
        padded = Padded(batch, np.arange(batch_size) < len(part))
        parts.append(jax.device_get(step(state, parallel.place_batch(padded))))
    sums = jax.tree.map(lambda *x: np.sum(x, axis=0), *parts)
    return TASK.summarize(sums, int(sums.pop("examples"))), sums


def without_randomness():
    return Contrastive(augment=lambda key, image: image, normalize=TASK.normalize)


def test_the_evaluation_depends_neither_on_the_batches_nor_on_the_devices():
    expected, _ = evaluate(10, 1)
    for batch_size, devices in ((4, 1), (8, 8)):
        values, _ = evaluate(batch_size, devices)
        assert values == pytest.approx(expected, rel=1e-4)
    assert expected["similarity"] == pytest.approx(1.0, abs=1e-5)  # the views are equal here


def test_the_effective_rank_is_the_number_of_directions_that_are_used():
    for rank in (1, 3, 4):
        moment = np.diag([1.0] * rank + [0.0] * (4 - rank))
        values = TASK.summarize({"similarity": 0.0, "moment": moment}, 10)
        assert values["effective_rank"] == pytest.approx(rank, rel=1e-3)


def test_the_encoder_is_the_model_without_its_head():
    variables = MODEL.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), True)
    found = encoder(variables)
    assert set(found["params"]) == {"conv", "norm"}
    assert set(found["batch_stats"]) == {"norm"}
