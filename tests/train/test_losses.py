"""Labels that cannot be right are refused or give NaN, and weights of classes multiply the loss."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import Classification, create_state, make_eval_step, make_train_step
from jaxcnn.train.gradient import accumulated
from jaxcnn.train.losses import LOSSES, binary_cross_entropy, cross_entropy, make_loss, weighted

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [0.3, 0.1, -1.0]])


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(x.reshape(len(x), -1))


def step_of(labels, loss=cross_entropy, **options):
    """Return what a training step and an evaluation step make of four images with these labels."""
    images = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
    optimizer = optax.sgd(1.0)
    state = create_state(Linear(), optimizer, (2, 2, 1), seed=0)
    after, sums = jax.jit(make_train_step(Linear(), optimizer, Classification(loss), **options))(
        state, {"image": images, "label": labels}
    )
    return state, after, sums


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_label_that_is_no_class_is_nan(name, smoothing):
    loss = make_loss(name, smoothing)
    found = loss(LOGITS, jnp.array([-1, 1, 3]))
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == loss(LOGITS, jnp.array([0, 1, 2]))[1]
    assert np.isnan(step_of(np.array([0, 1, -1, 2]), loss)[2]["loss"])


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (np.zeros((4, 1), np.int32), "int32 of shape (4, 1)"),
        (np.eye(4, 3, dtype=np.int32), "int32 of shape (4, 3)"),
        (np.eye(4, 3, dtype=bool), "bool of shape (4, 3)"),
        (np.eye(5, 3, dtype=np.float32), "float32 of shape (5, 3)"),
        (np.zeros(4, np.float32), "float32 of shape (4,)"),
        (np.zeros(4, bool), "bool of shape (4,)"),
        (np.zeros(3, np.int32), "int32 of shape (3,)"),
    ],
)
def test_labels_of_another_form_are_refused_by_their_form(labels, got):
    message = re.escape(f"labels must be integers of shape (4,) or floats of shape (4, classes), got {got}. Pass ")
    message = message.replace("classes", "(classes|3)")
    with pytest.raises(UsageError, match=message):
        step_of(labels)
    batch = {"image": np.zeros((4, 2, 2, 1), np.float32), "label": labels}
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(make_eval_step(Linear()), step_of(np.zeros(4, np.int32))[0], (batch, np.ones(4, bool)))
    for name in LOSSES:
        with pytest.raises(UsageError, match=message):
            make_loss(name)(jnp.zeros((4, 3)), labels)


TARGETS = jnp.array([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3]])
MULTI_HOT = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_have_the_cross_entropy_of_the_equations(smoothing):
    logits = np.asarray(LOGITS, np.float64)
    smoothed = (1 - smoothing) * np.asarray(TARGETS) + smoothing / 3
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = make_loss("cross_entropy", smoothing)(LOGITS, TARGETS)
    np.testing.assert_allclose(found, -(smoothed * log_softmax).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [TARGETS, MULTI_HOT], ids=["soft", "multi-hot"])
def test_targets_have_the_binary_cross_entropy_of_the_equations(targets, smoothing):
    probability = 1 / (1 + np.exp(-np.asarray(LOGITS, np.float64)))
    smoothed = (1 - smoothing) * np.asarray(targets) + smoothing / 3
    expected = -(smoothed * np.log(probability) + (1 - smoothed) * np.log(1 - probability)).mean(-1)
    found = make_loss("binary_cross_entropy", smoothing)(LOGITS, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_have_the_loss_and_the_gradient_of_their_class(name, smoothing):
    loss, labels = make_loss(name, smoothing), jnp.array([2, 0, 1])

    def mean_and_gradient(labels):
        return jax.value_and_grad(lambda logits: loss(logits, labels).mean())(LOGITS)

    of_class, of_target = mean_and_gradient(labels), mean_and_gradient(jax.nn.one_hot(labels, 3))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), of_class, of_target)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [[1.5, -0.5, 0.0], [1.0, np.nan, 0.0], [-0.1, 1.0, 0.1], [np.inf, 0.0, 0.0]])
def test_the_loss_of_a_target_outside_of_0_to_1_is_nan(name, bad):
    found = make_loss(name)(LOGITS, TARGETS.at[1].set(jnp.array(bad)))
    assert np.isnan(found).tolist() == [False, True, False]


def test_softmax_targets_must_sum_to_1():
    half = TARGETS.astype(jnp.bfloat16)
    assert np.isfinite(cross_entropy(LOGITS, half)).all()
    assert np.isnan(cross_entropy(LOGITS, MULTI_HOT)).all()
    assert np.isfinite(binary_cross_entropy(LOGITS, MULTI_HOT)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_of_targets_are_finite_for_large_logits(name, dtype):
    logits = jnp.array([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0], [0.0, 0.0, 6e4]], dtype)
    for targets in (TARGETS, jnp.eye(3)):
        losses, gradient = jax.vjp(
            lambda logits, t=targets: make_loss(name, 0.1)(logits.astype(jnp.float32), t), logits
        )
        assert np.isfinite(losses).all()
        assert np.isfinite(gradient(jnp.ones_like(losses))[0]).all()


def test_a_class_that_is_masked_by_minus_infinity_adds_nothing():
    logits, targets = jnp.array([[0.0, 1.0, -jnp.inf]]), jnp.array([[0.25, 0.75, 0.0]])
    value, gradient = jax.value_and_grad(lambda logits: cross_entropy(logits, targets).sum())(logits)
    assert value == pytest.approx(cross_entropy(logits[:, :2], targets[:, :2])[0])
    assert np.isfinite(gradient).all()


def test_a_step_learns_from_targets():
    for loss, targets in ((cross_entropy, np.eye(4, 3)), (binary_cross_entropy, np.ones((4, 3)))):
        targets[3] = (0.5, 0.5, 0.0)
        state, after, sums = step_of(targets.astype(np.float32), loss)
        assert np.isfinite(sums["loss"])
        assert not np.array_equal(state.params["Dense_0"]["kernel"], after.params["Dense_0"]["kernel"])


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_refuse_targets_in_one_line(name):
    with pytest.raises(UsageError, match="class_weights need integer labels") as raised:
        weighted(make_loss(name), (1.0, 2.0, 3.0))(LOGITS, TARGETS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_multiply_the_loss_of_each_example(name):
    labels, weights = jnp.array([0, 2, 2]), (0.5, 1.0, 2.0)
    expected = np.array([0.5, 2.0, 2.0]) * make_loss(name)(LOGITS, labels)
    np.testing.assert_allclose(weighted(make_loss(name), weights)(LOGITS, labels), expected, rtol=1e-6)


def test_class_weights_give_the_same_step_in_micro_batches():
    labels, loss = np.array([0, 1, 2, 2]), weighted(make_loss("cross_entropy", 0.1), (0.2, 1.0, 3.0))
    _, whole, _ = step_of(labels, loss)
    _, parts, _ = step_of(labels, loss, gradient=accumulated(2))
    np.testing.assert_allclose(whole.params["Dense_0"]["kernel"], parts.params["Dense_0"]["kernel"], rtol=1e-5)
