"""Sums of metrics over examples: padding, one-hot arrays, batches and devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics import OneHot, add, mean, sum_over_examples
from jaxcnn.train.metrics.sums import means

RNG = np.random.default_rng(0)
LABELS, PREDICTED = RNG.integers(0, 4, 16), RNG.integers(0, 4, 16)


def metrics_of(labels, predicted):
    """Return metrics of each kind."""
    return {
        "hit": labels == predicted,
        "distance": jnp.abs(labels - predicted).astype(jnp.bfloat16),
        "vector": jnp.stack([labels, predicted], axis=-1).astype(jnp.float32),
        "nested": {"confusion": OneHot(jnp.stack([labels, predicted], axis=-1), (4, 4))},
    }


def expected(labels, predicted):
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (labels, predicted), 1)
    return {
        "hit": (labels == predicted).sum(),
        "distance": np.abs(labels - predicted).sum(),
        "vector": np.array([labels.sum(), predicted.sum()]),
        "nested": {"confusion": confusion},
        "examples": len(labels),
    }


def assert_sums(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, dict(found), wanted)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_sums_are_those_of_numpy(transform):
    found = transform(lambda *x: sum_over_examples(metrics_of(*x)))(jnp.array(LABELS), jnp.array(PREDICTED))
    assert_sums(found, expected(LABELS, PREDICTED))
    assert found["hit"].dtype == found["examples"].dtype == jnp.int32
    assert found["distance"].dtype == jnp.float32


def test_padding_cannot_enter_the_sums():
    mask = np.arange(16) < 11
    values = metrics_of(jnp.array(LABELS), jnp.array(PREDICTED))
    values["distance"] = jnp.where(mask, values["distance"], jnp.nan)
    values["vector"] = jnp.where(mask[:, None], values["vector"], jnp.inf)
    assert_sums(sum_over_examples(values, jnp.array(mask)), expected(LABELS[mask], PREDICTED[mask]))
    none = sum_over_examples(values, jnp.zeros(16, bool))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(none))


def test_sums_add_up_over_devices():
    mask = np.arange(16) < 13  # devices have 2 examples, 1 or none

    def of_a_device(labels, predicted, mask):
        return jax.lax.psum(sum_over_examples(metrics_of(labels, predicted), mask), "batch")

    rows = PartitionSpec("batch")
    mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
    mapped = jax.shard_map(of_a_device, mesh=mesh, in_specs=(rows,) * 3, out_specs=PartitionSpec())
    assert_sums(jax.jit(mapped)(LABELS, PREDICTED, mask), expected(LABELS[mask], PREDICTED[mask]))
    batch = jax.device_put((LABELS, PREDICTED, mask), NamedSharding(mesh, rows))
    of_the_whole = jax.jit(lambda *x: sum_over_examples(metrics_of(*x[:2]), x[2]))
    assert_sums(of_the_whole(*batch), expected(LABELS[mask], PREDICTED[mask]))
    by_pmap = jax.pmap(of_a_device, "batch")(*(x.reshape(8, 2) for x in (LABELS, PREDICTED, mask)))
    assert_sums(jax.tree.map(lambda x: x[0], by_pmap), expected(LABELS[mask], PREDICTED[mask]))


def test_many_networks_have_sums_each():
    labels, predicted = LABELS.reshape(2, 8), PREDICTED.reshape(2, 8)
    found = jax.vmap(lambda *x: sum_over_examples(metrics_of(*x)))(jnp.array(labels), jnp.array(predicted))
    for network in range(2):
        assert_sums(jax.tree.map(lambda x, n=network: x[n], found), expected(labels[network], predicted[network]))


def test_a_one_hot_outside_of_the_shape_has_no_one():
    index = jnp.array([[0], [-1], [3], [2], [2]], jnp.int32)
    assert sum_over_examples({"x": OneHot(index, (3,))})["x"].tolist() == [1, 0, 2]


def test_a_one_hot_may_have_several_ones_for_an_example():
    pixels = jnp.array([[[0], [1]], [[1], [1]], [[0], [0]]], jnp.int32)
    assert sum_over_examples({"x": OneHot(pixels, (2,))}, jnp.array([True, True, False]))["x"].tolist() == [1, 3]


def test_narrow_integers_do_not_overflow():
    assert sum_over_examples({"x": jnp.full(300, 200, jnp.uint8)})["x"] == 60_000
    assert sum_over_examples({"x": jnp.ones(3000, jnp.float16)})["x"] == 3000


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (jnp.zeros(()), "one value for each of 4 examples, got float32 of shape ()"),
        (jnp.zeros((3, 4)), "one value for each of 4 examples, got float32 of shape (3, 4)"),
        (OneHot(jnp.zeros((3, 1), jnp.int32), (5,)), "got int32 of shape (3, 1)"),
        (OneHot(jnp.zeros((4, 2), jnp.int32), (5,)), "index of shape (4, ..., 1) for the shape (5,), got int32"),
        (OneHot(jnp.zeros((4, 1)), (5,)), "got float32 of shape (4, 1)"),
        ("text", "one value for each example, got str"),
    ],
)
def test_a_metric_without_an_example_axis_is_refused_by_its_name(value, says):
    with pytest.raises(UsageError, match=re.escape(says)) as raised:
        sum_over_examples({"loss": jnp.zeros(4), "mine": {"part": value}}, jnp.ones(4, bool))
    assert "metric 'mine.part'" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_odd_one_out_is_refused_without_a_mask():
    with pytest.raises(UsageError, match="metric 'mean'"):
        sum_over_examples({"mean": jnp.zeros(()), "loss": jnp.zeros(4), "hit": jnp.zeros(4)})


def test_the_name_of_the_number_of_examples_is_reserved():
    with pytest.raises(UsageError, match="cannot be named 'examples'"):
        sum_over_examples({"examples": jnp.zeros(4)})


def test_parts_add_up_in_double_precision():
    large, small = np.float32(2**24), np.float32(1)
    total = add([{"x": x, "nested": {"y": np.array([x, large])}} for x in (large, small)])
    assert total["x"] == 2**24 + 1
    assert isinstance(total["x"], float)
    assert total["nested"]["y"].tolist() == [2**24 + 1, 2**25]


def test_means_are_sums_over_the_count():
    found = means({"x": 3, "nested": {"y": np.array([1, 4])}, "examples": 4}, 4)
    assert found["x"] == 0.75
    assert found["nested"]["y"].tolist() == [0.25, 1.0]
    assert "examples" not in found
    assert np.isnan(mean({"x": np.zeros(2), "y": 0.0}, 0)["x"]).all()
    assert np.isnan(mean(0.0, 0))
