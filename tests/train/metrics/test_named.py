"""Named metrics: their values are those of plain NumPy code, with padding, uneven batches and several devices."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.errors import UsageError
from jaxcnn.train.metrics import (
    METRICS,
    Metric,
    add,
    as_arrays,
    as_json,
    as_lists,
    as_metric,
    make_metrics,
    numbers,
    sum_over_examples,
)

CLASSES, EXAMPLES, BATCH = 7, 53, 16
RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
LABELS = np.where(RNG.random(EXAMPLES) < 0.5, LOGITS.argmax(-1), RNG.integers(0, CLASSES, EXAMPLES)).astype(np.int32)
# Class 5 has no examples, class 4 is never predicted, and class 6 is neither.
LABELS[LABELS >= 5] = 0
LOGITS[:, 4] = LOGITS[:, 6] = -9.0
MULTI_HOT = (RNG.random((EXAMPLES, CLASSES)) < 0.4).astype(np.float32)
MULTI_HOT[:, 5] = 0


def batches(labels):
    """Yield logits, labels and a mask of batches. The padding of the last one is NaN."""
    for start in range(0, EXAMPLES, BATCH):
        rows = slice(start, start + BATCH)
        missing = max(start + BATCH - EXAMPLES, 0)
        logits = np.pad(LOGITS[rows], ((0, missing), (0, 0)), constant_values=np.nan)
        padded = np.pad(labels[rows], ((0, missing), *[(0, 0)] * (labels.ndim - 1)))
        yield logits, padded, np.arange(BATCH) < BATCH - missing


def values(metrics, labels=LABELS, devices=8):
    """Return the values of metrics over all examples, computed on several devices."""
    rows = PartitionSpec("batch")

    def step(logits, labels, mask):
        found = {name: metric.per_example(logits, labels) for name, metric in metrics.items()}
        return jax.lax.psum(sum_over_examples(found, mask), "batch")

    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(rows,) * 3, out_specs=PartitionSpec()))
    total = add(jax.device_get([mapped(*batch) for batch in batches(labels)]))
    count = total.pop("examples")
    assert count == EXAMPLES
    return {name: metric.summarize(total[name], count) for name, metric in metrics.items()}


@pytest.fixture(scope="module")
def found():
    return values(make_metrics((*METRICS, "top1", "top3"), CLASSES))


def reference_per_class(true, predicted):
    """Return precision, recall and F1 of each class as scikit-learn defines them, from bools `[N, classes]`."""
    result = {"precision": [], "recall": [], "f1": []}
    for index in range(true.shape[1]):
        hits = int((true[:, index] & predicted[:, index]).sum())
        misses, false = int(true[:, index].sum()) - hits, int(predicted[:, index].sum()) - hits
        result["precision"].append(hits / (hits + false) if hits + false else None)
        result["recall"].append(hits / (hits + misses) if hits + misses else None)
        result["f1"].append(2 * hits / (2 * hits + misses + false) if hits + misses + false else None)
    return result


def assert_per_class(value, true, predicted):
    expected = reference_per_class(true, predicted)
    for name, fractions in expected.items():
        assert value[name] == pytest.approx(fractions)
        assert value[f"macro_{name}"] == pytest.approx(np.mean([x for x in fractions if x is not None]))
    assert value["support"] == true.sum(0).tolist()
    assert value["predicted"] == predicted.sum(0).tolist()


def test_accuracies(found):
    order = np.argsort(-LOGITS, axis=-1, kind="stable")
    assert found["accuracy"] == found["top1"] == np.mean(order[:, 0] == LABELS)
    for k in (3, 5):
        assert found[f"top{k}"] == np.mean((order[:, :k] == LABELS[:, None]).any(-1))


def test_precision_recall_and_f1_of_each_class(found):
    classes = np.arange(CLASSES)
    assert_per_class(found["per_class"], LABELS[:, None] == classes, LOGITS.argmax(-1)[:, None] == classes)
    assert found["per_class"]["precision"][4] is None
    assert found["per_class"]["recall"][5] is None
    assert found["per_class"]["f1"][4] == 0.0
    assert found["per_class"]["f1"][6] is None
    assert found["balanced_accuracy"] == pytest.approx(found["per_class"]["macro_recall"])


def test_each_row_of_the_confusion_matrix_is_a_true_class(found):
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, prediction in zip(LABELS, LOGITS.argmax(-1), strict=True):
        expected[label, prediction] += 1
    assert found["confusion"].dtype == np.int64
    np.testing.assert_array_equal(found["confusion"], expected)


def test_calibration_error_is_that_of_fifteen_bins(found):
    probabilities = np.exp(LOGITS.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    confidence, correct = probabilities.max(-1), LOGITS.argmax(-1) == LABELS
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert found["calibration_error"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.05


def test_a_network_that_is_always_sure_and_right_is_calibrated():
    metric = make_metrics(["calibration_error"], 3)["calibration_error"]
    labels = jnp.array([0, 1, 2])
    for logits, expected in ((100 * jnp.eye(3), 0.0), (100 * jnp.roll(jnp.eye(3), 1, axis=1), 1.0)):
        sums = sum_over_examples({"x": metric.per_example(logits, labels)})
        assert metric.summarize(sums["x"], 3) == pytest.approx(expected, abs=1e-6)


def test_metrics_of_multi_hot_labels():
    found = values(make_metrics(("accuracy", "per_class"), CLASSES, multi_label=True), MULTI_HOT)
    true, predicted = MULTI_HOT > 0.5, 1 / (1 + np.exp(-LOGITS)) > 0.5
    assert found["accuracy"] == pytest.approx(np.mean(true == predicted))
    assert_per_class(found["per_class"], true, predicted)
    assert found["per_class"]["recall"][5] is None


def test_soft_labels_count_as_their_largest_class(found):
    soft = 0.9 * np.eye(CLASSES, dtype=np.float32)[LABELS] + 0.1 / CLASSES
    metrics = make_metrics(("accuracy", "top3", "per_class", "confusion"), CLASSES)
    of_soft = values(metrics, soft, devices=1)
    for name in metrics:
        assert as_json(of_soft[name]) == as_json(found[name])


def test_neither_labels_that_are_no_class_nor_nan_logits_are_correct():
    metrics = make_metrics(("top1", "top2", "per_class", "confusion"), 3)
    logits = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [jnp.nan] * 3])
    labels = jnp.array([-1, 3, 2])
    sums = sum_over_examples({name: metric.per_example(logits, labels) for name, metric in metrics.items()})
    assert sums["top1"] == sums["top2"] == 0
    assert sums["per_class"]["support"].tolist() == [0, 0, 1]
    assert sums["per_class"]["predicted"].tolist() == sums["confusion"].sum(0).tolist()
    assert sums["per_class"]["hits"].sum() == 0
    assert sums["confusion"].sum() == 1


def test_labels_of_each_pixel_count_once_each():
    metrics = make_metrics(("per_class", "confusion", "balanced_accuracy"), CLASSES)
    logits, labels = LOGITS[:48].reshape(4, 3, 4, CLASSES), LABELS[:48].copy()
    labels[5] = 255  # ignored
    found = {name: metric.per_example(logits, labels.reshape(4, 3, 4)) for name, metric in metrics.items()}
    sums = sum_over_examples(found, jnp.array([True, True, True, False]))
    counted = np.arange(36) != 5
    classes, true = np.arange(CLASSES), LABELS[:36][counted]
    predicted = LOGITS[:36].argmax(-1)[counted]
    assert_per_class(
        metrics["per_class"].summarize(sums["per_class"], 3), *(x[:, None] == classes for x in (true, predicted))
    )
    assert sums["confusion"].sum() == 35
    assert np.trace(sums["confusion"]) == (true == predicted).sum()


def test_multi_hot_labels_need_the_shape_of_the_logits():
    for metric in make_metrics(("accuracy", "per_class"), 3, multi_label=True).values():
        with pytest.raises(UsageError, match=r"shape of the logits, \(3, 3\), got \(3,\)"):
            metric.per_example(jnp.zeros((3, 3)), jnp.zeros(3, jnp.int32))


def test_equal_logits_rank_in_their_order():
    metrics = make_metrics(("top1", "top2"), 3)
    for k, expected in ((1, [True, False, False]), (2, [True, True, False])):
        in_top = metrics[f"top{k}"].per_example(jnp.zeros((3, 3)), jnp.arange(3))
        assert in_top.tolist() == expected


def test_the_same_names_give_the_same_objects():
    names = ("top3", "per_class", "confusion")
    assert make_metrics(names, 5) == make_metrics(names, 5)
    assert make_metrics(names, 5) != make_metrics(names, 6)


@pytest.mark.parametrize(
    ("name", "multi_label", "says"),
    [
        ("per_clas", False, "unknown metric 'per_clas'; did you mean 'per_class'?"),
        ("top-5", False, "unknown metric 'top-5'; did you mean 'top5'?"),
        ("perclass", True, "did you mean 'per_class'?"),
        ("top7", False, "metric top7 needs more than 7 classes, got 7. Use top1 to top6"),
        ("top0", False, "metric top0 is not valid."),
        (
            "top5",
            True,
            "metric top5 needs one label for each example, but labels are multi-hot. Use accuracy or per_class",
        ),
        ("confusion", True, "metric confusion needs one label"),
        ("calibration_error", True, "metric calibration_error needs one label"),
        ("balanced_accuracy", True, "metric balanced_accuracy needs one label"),
    ],
)
def test_a_metric_that_does_not_exist_is_refused_in_one_line(name, multi_label, says):
    with pytest.raises(UsageError, match=re.escape(says)) as raised:
        make_metrics([name], CLASSES, multi_label)
    assert "\n" not in str(raised.value)


def test_a_function_is_the_metric_of_its_mean():
    metric = as_metric(lambda logits, labels: logits[:, 0] * labels)
    assert values({"mine": metric})["mine"] == pytest.approx(np.mean(LOGITS[:, 0] * LABELS), rel=1e-4)
    assert as_metric(metric) is metric
    for wrong in ("accuracy", 3, Metric):
        with pytest.raises(UsageError, match="must be a function of"):
            as_metric(wrong)


def test_values_become_numbers_and_json(found):
    flat = numbers(found)
    assert flat["per_class/macro_f1"] == found["per_class"]["macro_f1"]
    assert "confusion" not in flat
    assert not any(name.startswith("per_class/support") for name in flat)
    assert as_json({"a": np.float64("nan"), "b": np.arange(2), "c": (1.0, None)}) == {
        "a": None,
        "b": [0, 1],
        "c": [1.0, None],
    }
    assert numbers({"examples": np.int64(3), "loss": np.float32(0.5)}) == {"examples": 3, "loss": 0.5}
    assert type(numbers({"examples": np.int64(3)})["examples"]) is int


def test_sums_survive_their_storage_as_lists():
    sums = {"loss": np.float64("nan"), "matrix": np.arange(4.0).reshape(2, 2) / 3, "inner": {"examples": 3}}
    stored = as_arrays(json.loads(json.dumps(as_lists(sums))))
    np.testing.assert_equal(stored, sums)
