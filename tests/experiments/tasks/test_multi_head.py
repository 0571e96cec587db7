"""Several heads: each has its own labels, loss and metrics, and one network serves them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.multi_head import MultiHead, MultiHeadModel
from jaxcnn.models import create_model

HEADS = (("label", 3), ("group", 2), ("ink", 1))
TASK = MultiHead({"label": 1.0, "group": 0.5}, {"ink": 2.0}, normalize=lambda x: x.astype(jnp.float32))


def outputs_and_labels(count=6):
    random = np.random.default_rng(0)
    outputs = {name: random.normal(size=(count, width)).astype(np.float32) for name, width in HEADS}
    labels = {"label": random.integers(0, 3, count), "group": random.integers(0, 2, count)}
    return outputs, {"image": np.zeros((count, 4, 4, 1)), "ink": random.random(count).astype(np.float32), **labels}


def cross_entropy(logits, labels):
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -logs[np.arange(len(labels)), labels]


def test_the_loss_is_the_weighted_sum_of_the_losses_of_the_heads():
    outputs, batch = outputs_and_labels()
    expected = cross_entropy(outputs["label"], batch["label"]) + 0.5 * cross_entropy(outputs["group"], batch["group"])
    expected += 2.0 * (outputs["ink"][:, 0] - batch["ink"]) ** 2
    np.testing.assert_allclose(TASK.metrics(outputs, batch)["loss"], expected, rtol=1e-5)


def test_each_head_has_its_own_metric():
    outputs, batch = outputs_and_labels()
    metrics = TASK.metrics(outputs, batch)
    assert set(metrics) == {"loss", "label_accuracy", "group_accuracy", "ink_error"}
    for name in ("label", "group"):
        np.testing.assert_array_equal(metrics[f"{name}_accuracy"], outputs[name].argmax(-1) == batch[name])
    np.testing.assert_allclose(metrics["ink_error"], np.abs(outputs["ink"][:, 0] - batch["ink"]), rtol=1e-6)


def test_all_heads_share_the_backbone_and_each_gets_a_gradient():
    model = MultiHeadModel(create_model("lenet5", 16), HEADS)
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (4, 28, 28, 1), np.uint8),
        "label": np.arange(4) % 3,
        "group": np.arange(4) % 2,
        "ink": np.ones(4, np.float32),
    }
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), True)
    gradients = jax.grad(lambda params: TASK.loss(model, {"params": params}, batch, {})[0])(variables["params"])
    assert set(gradients) == {"backbone", "label", "group", "ink"}
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradients))


def test_the_scores_are_those_of_the_first_classification():
    model = MultiHeadModel(create_model("lenet5", 16), HEADS)
    images = np.zeros((2, 28, 28, 1), np.uint8)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), True)
    expected = model.apply(variables, images.astype(np.float32), train=False)["label"]
    np.testing.assert_array_equal(TASK.scores(model, variables, {"image": images}), expected)


@pytest.mark.parametrize("monitor", ["loss", "group_accuracy", "ink_error"])
def test_the_metric_that_chooses_the_best_checkpoint_is_a_field(monitor):
    assert MultiHead({"label": 1.0}, {}, monitor=monitor).monitor == monitor
