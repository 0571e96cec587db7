"""An NNX module that wraps a model has its logits, gradients and running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcnn import create_model
from jaxcnn.errors import UsageError
from jaxcnn.nnx import wrap


@pytest.fixture(scope="module")
def network():
    model = create_model("resnet20_cifar", 5, stage_sizes=(1, 1), width=8)
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    return model, model.init(jax.random.key(2), images, train=True), images


def loss_of(logits):
    return jnp.mean(jnp.square(logits - 1))


def test_logits_gradients_and_statistics_are_those_of_the_linen_model(network):
    model, variables, images = network
    wrapped = wrap(model, variables=variables)

    def linen_loss(params):
        logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return loss_of(logits), updates

    (expected, updates), gradients = jax.value_and_grad(linen_loss, has_aux=True)(variables["params"])
    found, theirs = nnx.value_and_grad(lambda wrapped: loss_of(wrapped(images)))(wrapped)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    conv, last = gradients["stem"]["conv"]["kernel"], gradients["head"]["bias"]
    np.testing.assert_allclose(theirs["network"]["stem"]["conv"]["kernel"][...], conv, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(theirs["network"]["head"]["bias"][...], last, rtol=1e-4, atol=1e-6)
    mean = updates["batch_stats"]["stem"]["norm"]["mean"]
    np.testing.assert_allclose(wrapped.network.stem["norm"]["mean"][...], mean, rtol=1e-5, atol=1e-7)

    wrapped.eval()
    after = {**variables, "batch_stats": updates["batch_stats"]}
    np.testing.assert_allclose(wrapped(images), model.apply(after, images, train=False), rtol=1e-5, atol=1e-6)


def test_an_optimizer_of_nnx_trains_it(network):
    model, variables, images = network
    wrapped = wrap(model, variables=variables)
    optimizer = nnx.Optimizer(wrapped, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(wrapped, optimizer):
        loss, gradients = nnx.value_and_grad(lambda wrapped: loss_of(wrapped(images)))(wrapped)
        optimizer.update(wrapped, gradients)
        return loss

    losses = [float(step(wrapped, optimizer)) for _ in range(5)]
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_differs_from_call_to_call_in_training_only():
    model = create_model("alexnet", 3, features=(8, 8, 8, 8, 8), hidden=16)
    wrapped = wrap(model, image_shape=(67, 67, 3))
    images = jax.random.normal(jax.random.key(0), (1, 67, 67, 3))
    assert np.abs(wrapped(images) - wrapped(images)).max() > 0
    wrapped.eval()
    assert np.abs(wrapped(images) - wrapped(images)).max() == 0


def test_the_variables_of_another_model_are_one_line(network):
    model, variables, _ = network
    with pytest.raises(UsageError, match="2 variables do not fit the model, such as 'head/bias'"):
        wrap(model.clone(num_classes=7), variables=variables)


def test_a_module_without_an_image_shape_needs_one():
    with pytest.raises(UsageError, match="Pass image_shape"):
        wrap(nn.Dense(3))
