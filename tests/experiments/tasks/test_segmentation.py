"""Segmentation: image and mask stay together, and the metrics are those of NumPy over all labeled pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.segmentation import IGNORED, FullyConvolutional, Segmentation, flip_and_crop
from jaxcnn.data import Padded
from jaxcnn.train import make_parallel
from jaxcnn.train.step import evaluate_batch

CLASSES = 3
TASK = Segmentation(CLASSES, normalize=lambda x: x.astype(jnp.float32))


class Logits:
    """A "model" whose logits are the channels of the image."""

    def apply(self, variables, x, **how):
        return x


def examples(count, seed=0):
    """Random logits and masks, in which class 2 is rare and a fifth of the pixels is ignored."""
    random = np.random.default_rng(seed)
    masks = random.choice([0, 1, 2, IGNORED], (count, 6, 5), p=[0.5, 0.28, 0.02, 0.2]).astype(np.uint8)
    return {"image": random.normal(size=(count, 6, 5, CLASSES)).astype(np.float32), "mask": masks}


def numpy_metrics(batch):
    """Pixel accuracy, the intersection over union of each class, and the mean loss of the images."""
    true, predicted, logits = batch["mask"], batch["image"].argmax(-1), batch["image"].astype(np.float64)
    labeled = true != IGNORED
    iou = [
        ((true == k) & (predicted == k)).sum() / (((true == k) | (predicted == k)) & labeled).sum()
        for k in range(CLASSES)
    ]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_pixels = -np.take_along_axis(logs, np.where(labeled, true, 0)[..., None].astype(int), -1)[..., 0]
    losses = [x[is_labeled].mean() for x, is_labeled in zip(of_pixels, labeled, strict=True)]
    return (true == predicted)[labeled].mean(), np.array(iou), np.mean(losses)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 21), (1, 8), (8, 16)])
def test_metrics_are_those_of_all_labeled_pixels_whatever_the_batches_the_padding_and_the_devices(devices, batch_size):
    batch, count = examples(21), 21
    parallel = make_parallel("pmap", jax.devices()[:devices])
    step = parallel.compile(lambda _, padded: evaluate_batch(Logits(), TASK, {}, padded), donate_state=False)
    parts = []
    for start in range(0, count, batch_size):
        real = min(batch_size, count - start)
        # Zeros, as the pipeline pads: of class 0 and predicted as class 0, if they counted.
        padded = {
            name: np.concatenate([x[start : start + real], np.zeros_like(x[:1]).repeat(batch_size - real, 0)])
            for name, x in batch.items()
        }
        parts.append(jax.device_get(step({}, parallel.place_batch(Padded(padded, np.arange(batch_size) < real)))))
    sums = jax.tree.map(lambda *x: np.sum(x, axis=0), *parts)
    assert sums.pop("examples") == count
    values = TASK.summarize(sums, count)
    accuracy, iou, loss = numpy_metrics(batch)
    assert values["pixel_accuracy"] == pytest.approx(accuracy)
    np.testing.assert_allclose(values["iou"], iou)
    assert values["mean_iou"] == pytest.approx(iou.mean())
    assert values["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_class_that_never_occurs_has_no_part_in_the_mean():
    confusion = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    values = TASK.summarize({"loss": 1.0, "confusion": confusion}, 1)
    np.testing.assert_allclose(values["iou"], [6 / 8, 2 / 4, np.nan])
    assert values["mean_iou"] == pytest.approx((6 / 8 + 2 / 4) / 2)


def test_an_image_without_labeled_pixels_has_no_loss_and_a_finite_gradient():
    mask = jnp.full((2, 4, 4), IGNORED)

    def loss(logits):
        return TASK.metrics(logits, mask)["loss"].mean()

    value, gradient = jax.value_and_grad(loss)(jnp.ones((2, 4, 4, CLASSES)))
    assert float(value) == 0.0
    assert not np.asarray(gradient).any()


def test_ignored_pixels_do_not_change_the_gradient():
    batch = examples(2)
    mask = jnp.asarray(batch["mask"], jnp.int32)
    gradient = np.asarray(jax.grad(lambda logits: TASK.metrics(logits, mask)["loss"].sum())(batch["image"]))
    ignored = batch["mask"] == IGNORED
    assert not gradient[ignored].any()
    assert (np.abs(gradient[~ignored]).max(-1) > 0).all()


def test_image_and_mask_are_moved_alike():
    # A pixel's value tells its place, in the image and in the mask.
    places = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    seen = set()
    for seed in range(40):
        image, mask = flip_and_crop(jax.random.key(seed), jnp.array(places)[..., None], jnp.array(places), padding=2)
        image, mask = np.asarray(image)[..., 0], np.asarray(mask)
        outside = mask == IGNORED
        np.testing.assert_array_equal(image[~outside], mask[~outside])
        assert not image[outside].any()
        seen.add((int(mask[4, 4]), bool(mask[4, 4] > mask[4, 5])))
    assert {mirrored for _, mirrored in seen} == {True, False}
    assert len(seen) > 15  # of 50 shifts and mirror images


def test_each_example_has_its_own_augmentation_and_evaluation_has_none():
    one = examples(1)
    batch = {name: np.repeat(x, 8, axis=0) for name, x in one.items()}
    augmented = TASK.prepare(jax.random.key(0), batch, True)
    assert len(np.unique(np.asarray(augmented["mask"]).reshape(8, -1), axis=0)) > 4
    np.testing.assert_array_equal(TASK.prepare(jax.random.key(0), batch, False)["mask"], batch["mask"])


@pytest.mark.parametrize("size", [(28, 28), (9, 14)])
def test_the_network_gives_logits_for_each_pixel_of_any_size(size):
    model = FullyConvolutional(CLASSES, width=2, dtype=jnp.bfloat16)
    logits, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 1)), train=True))
    assert (logits.shape, logits.dtype) == ((2, *size, CLASSES), jnp.float32)
