"""Distillation: the loss of the paper, a teacher that never changes, and a student that is a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.tasks.distillation import Distillation, soft_loss
from jaxcnn.layers import BatchNorm, Dense
from jaxcnn.train import Classification, Config, Trained, create_state, make_parallel, make_train_step
from jaxcnn.train.runtime.preprocessing import Preprocessing

SHAPE = (4, 4, 1)


class Linear(nn.Module):
    """`[N, 4, 4, 1] -> [N, 3]`, with statistics that a teacher must not move."""

    @nn.compact
    def __call__(self, x, *, train):
        return Dense(3, name="head")(BatchNorm(name="norm")(x.reshape(len(x), -1), train))


def normalize(images):
    return jnp.asarray(images, jnp.float32) / 128.0 - 1.0


@pytest.fixture(scope="module")
def teacher():
    around = Preprocessing(SHAPE, (0.5,), (0.5,), ("a", "b", "c"))
    variables = Linear().init(jax.random.key(7), jnp.zeros((1, *SHAPE)), train=True)
    return Trained(Config(), Linear(), variables, 0, around)


def batch_of(count=16):
    random = np.random.default_rng(0)
    return {
        "image": random.integers(0, 256, (count, *SHAPE), np.uint8),
        "label": random.integers(0, 3, count).astype(np.int32),
    }


def step_of(task, devices=1):
    optimizer = optax.sgd(1.0)
    parallel = make_parallel("pmap", jax.devices()[:devices])
    step = parallel.compile(make_train_step(Linear(), optimizer, task), donate_state=False)
    before = create_state(Linear(), optimizer, SHAPE, seed=0)
    after, sums = step(parallel.place_state(before), parallel.place_batch(batch_of()))
    return jax.device_get((after.params, sums))


def test_the_soft_loss_is_that_of_the_paper():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)

    def probabilities(logits):
        odds = np.exp(logits.astype(np.float64) / 4.0)
        return odds / odds.sum(-1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    np.testing.assert_allclose(soft_loss(student, teacher, 4.0), 16 * (p * np.log(p / q)).sum(-1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(soft_loss(teacher, teacher, 4.0), np.zeros(5), atol=1e-5)


def test_at_a_high_temperature_the_gradient_is_that_of_the_difference_of_centered_logits():
    # Section 2.1, equation 4, times T^2.
    student, teacher = np.random.default_rng(1).normal(size=(2, 1, 3)).astype(np.float32)
    gradient = jax.grad(lambda x: soft_loss(x, teacher, 1000.0).sum())(jnp.array(student))
    difference = (student - student.mean()) - (teacher - teacher.mean())
    np.testing.assert_allclose(gradient, difference / 3, rtol=2e-2, atol=2e-3)


def test_without_weight_of_the_teacher_it_is_classification(teacher):
    params, sums = step_of(Distillation(normalize=normalize, teacher=teacher, weight=0.0))
    expected, expected_sums = step_of(Classification(normalize=normalize))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)
    np.testing.assert_allclose(sums["loss"], expected_sums["loss"], rtol=1e-6)


def test_with_all_weight_on_the_teacher_labels_do_not_matter(teacher):
    task = Distillation(normalize=normalize, teacher=teacher, weight=1.0)
    variables = Linear().init(jax.random.key(1), jnp.zeros((1, *SHAPE)), train=True)
    batch = batch_of()
    other = {**batch, "label": (batch["label"] + 1) % 3}
    losses = [float(task.loss(Linear(), variables, x, {})[0]) for x in (batch, other)]
    assert losses[0] == losses[1] > 0


def test_the_teacher_normalizes_as_in_its_own_training_and_sees_the_augmented_images(teacher):
    task = Distillation(normalize=lambda x: 3.0 * x, teacher=teacher, augment=lambda key, image: image[::-1])
    batch = batch_of()
    prepared = task.prepare(jax.random.key(0), batch, True)
    np.testing.assert_array_equal(prepared["image"], batch["image"][:, ::-1])
    variables = Linear().init(jax.random.key(1), jnp.zeros((1, *SHAPE)), train=True)
    _, _, metrics = task.loss(Linear(), variables, prepared, {})
    student, _ = Linear().apply(variables, 3.0 * prepared["image"], train=True, mutable=["batch_stats"])
    of_teacher = Linear().apply(teacher.variables, prepared["image"] / 255 / 0.5 - 1, train=False)
    np.testing.assert_allclose(metrics["soft_loss"], soft_loss(student, of_teacher, 4.0), rtol=1e-3, atol=1e-4)


def test_eight_devices_learn_what_one_learns(teacher):
    task = Distillation(normalize=normalize, teacher=teacher)
    (params, sums), (expected, expected_sums) = step_of(task, 8), step_of(task)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, expected)
    np.testing.assert_allclose(sums["soft_loss"], expected_sums["soft_loss"], rtol=1e-5)
