"""Alternating flip: two epochs in a row show each image in both ways, wherever the images are kept."""

import itertools

import numpy as np
import pytest

from jaxcnn.data import from_arrays, from_batches, open_pipeline
from jaxcnn.data.alternating import mirror, mirrored
from jaxcnn.errors import UsageError

EXAMPLES = 50


def dataset(examples: int = EXAMPLES):
    """Return images that tell their number in the first column, and their side by a bright last column."""
    images = np.zeros((examples, 4, 6, 1), np.uint8)
    images[:, :, 0, 0] = np.arange(examples)[:, None]
    images[:, :, -1, 0] = 255
    return from_arrays(train=(images, np.arange(examples) % 2), test=(images[:4], np.arange(4) % 2))


def sides(pipeline, epochs: int) -> list[dict[int, bool]]:
    """Return for each epoch which examples were mirrored, by their number."""
    examples = pipeline.dataset.examples["train"]
    steps = epochs * examples // pipeline.batch_size
    images = np.concatenate([np.asarray(b["image"]) for b in itertools.islice(pipeline.batches(), steps)])
    found = [(image[0, -1, 0], True) if image[0, 0, 0] == 255 else (image[0, 0, 0], False) for image in images]
    return [dict(found[start : start + examples]) for start in range(0, len(found), examples)]


@pytest.mark.parametrize("residence", ["device", "memory", "disk"])
def test_an_epoch_mirrors_exactly_what_the_one_before_did_not(residence):
    # A batch of 20 covers the end of one epoch of 50 and the start of the next.
    pipeline = open_pipeline(dataset(), 20, seed=3, augment=("alternating_flip",), residence=residence, workers=2)
    first, second, third, fourth = sides(pipeline, 4)
    assert set(first) == set(range(EXAMPLES))
    assert all(first[example] != second[example] for example in first)
    assert (first, second) == (third, fourth)
    assert 10 < sum(first.values()) < 40  # 4 standard deviations around 25


def test_the_pipeline_leaves_the_other_augmentations_to_the_device_in_their_order():
    pipeline = open_pipeline(dataset(), 10, augment=("cutout:2", "alternating_flip", "shift:1"))
    assert pipeline.device_augment == ("cutout:2", "shift:1")
    assert not open_pipeline(dataset(), 10, augment=("flip",)).mirrors


def test_processes_mirror_what_one_process_mirrors():
    whole = open_pipeline(dataset(), 20, augment=("alternating_flip",))
    parts = [open_pipeline(dataset(), 20, augment=("alternating_flip",), share=(part, 2)) for part in range(2)]
    for step in (0, 2, 4):
        both = np.concatenate([part.mirrored(step) for part in parts])
        np.testing.assert_array_equal(both, whole.mirrored(step))


def test_the_seed_decides_and_nothing_is_written_to_the_images_that_are_kept():
    indices, epochs = np.arange(200), np.zeros(200, int)
    seeds = [mirrored(indices, epochs, examples=200, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert not np.array_equal(seeds[0], seeds[2])
    images = np.arange(12).reshape(2, 2, 3, 1)
    flipped = mirror({"image": images, "label": images}, np.array([True, False]))
    np.testing.assert_array_equal(flipped["image"], [images[0, :, ::-1], images[1]])
    assert flipped["label"] is images
    assert images.ravel().tolist() == list(range(12))


def test_orders_without_epochs_are_refused():
    with pytest.raises(UsageError, match="'alternating_flip' cannot be used with sampling 'balanced'"):
        open_pipeline(dataset(), 10, augment=("alternating_flip",), sampling="balanced")

    def batches():
        return iter([{"image": np.zeros((4, 4, 4, 1), np.uint8), "label": np.arange(4) % 2}])

    stream = from_batches(batches, batches, examples=4, class_names=["a", "b"])
    with pytest.raises(UsageError, match="augmentation cannot be alternating_flip"):
        open_pipeline(stream, 2, augment=("alternating_flip",))
