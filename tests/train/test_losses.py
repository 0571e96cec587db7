"""Labels that cannot be right are refused or give NaN, and weights of classes multiply the loss."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import create_state, make_eval_step, make_train_step
from jaxcnn.train.gradient import accumulated
from jaxcnn.train.losses import LOSSES, cross_entropy, make_loss, weighted

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
    after, sums = jax.jit(make_train_step(Linear(), optimizer, loss, **options))(
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
        (np.eye(4, 3, dtype=np.float32), "float32 of shape (4, 3)"),
        (np.zeros(4, np.float32), "float32 of shape (4,)"),
        (np.zeros(4, bool), "bool of shape (4,)"),
        (np.zeros(3, np.int32), "int32 of shape (3,)"),
    ],
)
def test_labels_of_another_form_are_refused_by_their_form(labels, got):
    message = re.escape(f"labels must be integers of shape (4,), got {got}. Pass the index of one class")
    with pytest.raises(UsageError, match=message):
        step_of(labels)
    batch = {"image": np.zeros((4, 2, 2, 1), np.float32), "label": labels}
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(make_eval_step(Linear()), step_of(np.zeros(4, np.int32))[0], (batch, np.ones(4, bool)))
    for name in LOSSES:
        with pytest.raises(UsageError, match=message):
            make_loss(name)(jnp.zeros((4, 3)), labels)


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
